"""A machine of the cluster is lost with the trials on it."""

import pytest

from tests.faults.sweeps import alive
from tests.faults.test_driver import check


@pytest.fixture
def cluster():
    """A head that trains nothing and two nodes of two cores each, as processes of this machine."""
    from ray.cluster_utils import Cluster

    from segcal import cluster as settings  # noqa: F401  sets what Ray reads when it is imported

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80_000_000})
    nodes = [made.add_node(num_cpus=2, object_store_memory=80_000_000) for _ in range(2)]
    yield made, nodes
    made.shutdown()


@pytest.mark.fault
def test_trials_of_a_lost_node_move(sweep, cluster, reference, count):
    made, (lost, _) = cluster
    driver = sweep.start("--address", made.address)
    sweep.wait_for(lambda: len(sweep.noted("start")) >= 4 and len(sweep.noted("epoch")) > 60)
    working = {int(pid) for _, _, pid in sweep.noted("start")} - {int(pid) for _, _, pid in sweep.noted("end")}
    made.remove_node(lost, allow_graceful=False)
    sweep.wait_for(lambda: any(not alive(pid) for pid in working), 30)
    _, said = driver.communicate(timeout=400)
    assert driver.returncode == 0, said
    moved = len(sweep.noted("start")) - len(reference)
    assert moved >= 1
    check(sweep, reference, count, "a node is lost")
    count(9, "kill of one of two nodes", f"{moved} trials moved, {len(reference)} of {len(reference)} finished")
