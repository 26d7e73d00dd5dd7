"""The service keeps what its OpenAPI says, whatever it is asked: requests made up by schemathesis, right and wrong."""

from dataclasses import replace

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode

from segcal.service.app import create_app

EXAMPLES = 12  # requests of each kind to each endpoint
TOKEN = "a token that is long enough"
QUICK = hypothesis_settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None,
    phases=[Phase.explicit, Phase.generate],
)  # fmt: skip


def faults_of(schema, mode, known, headers=None):
    """Endpoint -> what was wrong with its answers; known: path parameters of things that are there."""
    faults = {}
    for found in schema.get_all_operations():
        operation = found.ok()

        @QUICK
        @given(case=operation.as_strategy(generation_mode=mode), there=st.booleans())
        def ask(case, there):
            if there and mode is GenerationMode.POSITIVE:
                case.path_parameters |= {name: value for name, value in known.items() if name in case.path_parameters}
            case.call_and_validate(headers=headers)

        try:
            ask()
        except Unsatisfiable:  # nothing can be wrong with a request that says nothing
            assert not operation.path_parameters
            assert not operation.query
        except BaseException as fault:
            faults[operation.label] = _told(fault)
    return faults


def _told(fault):
    parts = getattr(fault, "exceptions", None)
    return "; ".join(_told(part) for part in parts) if parts else f"{type(fault).__name__}: {fault}"


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["right", "wrong"])
def test_every_answer_is_as_the_schema_says(settings, reported, mode):
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(replace(settings, allowed_hosts=("*",))))
    known = {"analysis_id": reported["analysis_id"], "name": "box.csv"}
    assert faults_of(schema, mode, known) == {}
    assert len(list(schema.get_all_operations())) >= 18


def test_it_is_the_same_behind_a_token(settings, reported):
    app = create_app(replace(settings, allowed_hosts=("*",), token=TOKEN))
    headers = {"Authorization": f"Bearer {TOKEN}"}
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=headers)
    assert faults_of(schema, GenerationMode.POSITIVE, {"analysis_id": reported["analysis_id"]}, headers) == {}
