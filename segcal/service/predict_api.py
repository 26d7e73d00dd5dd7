"""The API of predictions: images are uploaded, and the results fetched."""

__all__ = ["router"]

import mimetypes
import re
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from segcal.errors import SegcalError, UnknownName, UsageError
from segcal.ledger.ensemble_version import find_version
from segcal.service.api_models import ID, PredictionStatus
from segcal.service.errors import Refusal, documented
from segcal.service.monitoring.metrics import metrics_of
from segcal.service.predictions import Prediction, Predictions, Upload

router = APIRouter(prefix="/v1/predict", tags=["predictions"])

FILES = 2000  # slices of a DICOM series are a file each
Id = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="Of a prediction", examples=[ID])]
MODEL = r"^(models:/)?[A-Za-z0-9._-]{1,200}(@[A-Za-z0-9_-]{1,100}|/[0-9]{1,9})$"
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["model", "image"],
                    "properties": {
                        "model": {
                            "type": "string", "pattern": MODEL, "description": "A registered ensemble",
                            "examples": ["models:/segcal-brain-ensemble@champion"],
                        },
                        "image": {
                            "type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1,
                            "description": "The channels in the task's order, or one 4-D NIfTI; or, instead of "
                            "`image`, a file (or DICOM slices) for each channel under the channel's name. NIfTI, "
                            "MetaImage (.mha), NRRD or DICOM",
                        },
                    },
                    "additionalProperties": {"type": "string", "format": "binary"},
                }
            }
        },
    }
}  # fmt: skip


@router.post(
    "", status_code=202, response_model=PredictionStatus, responses=documented(404, 409), openapi_extra=BODY
)  # fmt: skip
async def predict(request: Request, response: Response) -> PredictionStatus:
    """Predict one case with a registered ensemble. The images are removed as soon as that is done."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise Refusal(422, f"a prediction must be sent as multipart/form-data, got '{kind[:60]}'")
    try:
        _predictions(request).check_room()
        async with request.form(max_files=FILES, max_fields=8) as form:  # its files are gone after the block
            made = await run_in_threadpool(_accept, request, form)
    except SegcalError:
        metrics_of(request.app).prediction("refused")
        raise
    response.headers["location"] = f"/v1/predict/{made.id}"
    return _status(request, made)


@router.get("/{prediction_id}", response_model=PredictionStatus, responses=documented(404))
def prediction(request: Request, prediction_id: Id) -> PredictionStatus:
    """How a prediction stands."""
    return _status(request, _predictions(request).find(prediction_id))


@router.delete("/{prediction_id}", status_code=204, responses=documented(404), response_class=Response)
def remove(request: Request, prediction_id: Id) -> Response:
    """Stop it, and remove all of it."""
    _predictions(request).remove(prediction_id)
    return Response(status_code=204)


@router.get(
    "/{prediction_id}/files/{name}", response_class=FileResponse,
    responses={**documented(404), 200: {"description": "The file", "content": {
        kind: {"schema": {"type": "string"}} for kind in ("application/json", "image/png", "application/gzip")
    }}},
)  # fmt: skip
def file(
    request: Request, prediction_id: Id, name: Annotated[str, Path(max_length=200, examples=["result.json"])]
) -> FileResponse:
    """A file of the results: result.json, labels.nii.gz, entropy.nii.gz, probability maps and check.png."""
    path = _predictions(request).file(prediction_id, name)
    kind = "application/gzip" if name.endswith(".gz") else mimetypes.guess_type(name)[0] or "application/octet-stream"
    return FileResponse(path, media_type=kind)


def _accept(request: Request, form: FormData) -> Prediction:
    """Raises Refusal (422) for a form that is none, UnknownName for an unknown model."""
    model = form.get("model")
    if not isinstance(model, str) or not re.fullmatch(MODEL, model):
        raise Refusal(422, f"model must be models:/NAME@ALIAS or models:/NAME/VERSION, got {str(model)[:100]!r}")
    try:
        find_version(request.app.state.client, model)
    except UsageError as error:
        raise UnknownName(str(error)) from None
    uploads = []
    for name, part in form.multi_items():
        if isinstance(part, UploadFile):
            if not 1 <= len(name) <= 100 or not name.isprintable():
                raise Refusal(422, f"a file must be called by its channel, got a name of {len(name)} characters")
            uploads.append(Upload(name, part.filename or "", part.file))
        elif name != "model" or part is not model:
            raise Refusal(422, f"a field must be model, once, or a file, got {name[:60]!r} as text")
    return _predictions(request).accept(model, uploads)


def _predictions(request: Request) -> Predictions:
    predictions: Predictions = request.app.state.predictions
    return predictions


def _status(request: Request, made: Prediction) -> PredictionStatus:
    here = f"/v1/predict/{made.id}"
    return PredictionStatus(
        id=made.id, status=made.status, model=made.model, error=made.error or None, created_ms=made.created_ms,
        ended_ms=made.ended_ms, expires_ms=_predictions(request).expires_ms(made),
        files={name: f"{here}/files/{name}" for name in made.files}, links={"self": here},
    )  # fmt: skip
