"""Two processes are really two, follow the trajectory of one, and are refused where they are not what was asked for."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pricing_fm.training.processes import check_same_norm, expected_processes
from tests.test_training_toy import REPOSITORY, launch_environment, losses_of, run_toy

TOY_SCRIPT = str(REPOSITORY / "tests" / "test_training_toy.py")
TWO_PROCESSES = ["--config_file", str(REPOSITORY / "recipes" / "accelerate" / "cpu_2proc.yaml")]


def launch(jobs: dict[str, Any], folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Trains the toy under `accelerate launch`."""
    file = folder / "jobs.json"
    file.write_text(json.dumps(jobs))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0", *options]
    return subprocess.run(
        [*command, TOY_SCRIPT, str(file)], env=launch_environment(), capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with what two processes left after several runs, one of them taken up from a checkpoint of one process."""
    folder = tmp_path_factory.mktemp("two")
    loop = {"max_steps": 50, "evaluate_every": 25}
    run_toy(folder / "resumed", loop=loop, output={"checkpoint_every": 20, "keep_checkpoints": 3})
    early = folder / "resumed" / ".checkpoints" / "step_00000020"
    jobs = {
        "plain": {"loop": {**loop, "num_processes_expected": 2}},
        "accumulated": {"loop": {**loop, "gradient_accumulation_steps": 4}},
        "resumed": {"loop": loop, "output": {"resume": str(early), "overwrite": True}},
        "sharded": {},
        "apart": {},
    }
    for name, job in jobs.items():
        job["folder"] = str(folder / name)
        (folder / name).mkdir(exist_ok=True)
    done = launch(jobs, folder, *TWO_PROCESSES)
    assert done.returncode == 0, done.stderr
    return folder


def told(folder: Path, name: str, rank: int) -> dict[str, Any]:
    return json.loads((folder / name / f"{name}_{rank}.json").read_text())


@pytest.mark.parametrize("name", ["plain", "accumulated"])
def test_two_processes_follow_the_trajectory_of_one(two_processes: Path, tmp_path: Path, name: str) -> None:
    one, model = run_toy(tmp_path, loop={"max_steps": 50, "evaluate_every": 25})
    for rank in range(2):
        two = told(two_processes, name, rank)
        assert len(two["losses"]) == 50
        assert two["losses"] == pytest.approx(losses_of(one), abs=1e-5)
        assert two["best"] == pytest.approx(one.best_validation_loss, abs=1e-5)
        for key, tensor in model.state_dict().items():
            assert torch.allclose(torch.tensor(two["weights"][key]), tensor, atol=1e-4)


def test_gradients_are_identical_in_both_processes(two_processes: Path) -> None:
    left, right = (told(two_processes, "plain", rank)["gradients"] for rank in range(2))
    assert left == right
    assert len(set(left)) == 50


def test_a_run_of_one_process_goes_on_in_two(two_processes: Path, tmp_path: Path) -> None:
    one, _ = run_toy(tmp_path, loop={"max_steps": 50, "evaluate_every": 25})
    resumed = told(two_processes, "resumed", 1)
    assert len(resumed["losses"]) == 50
    assert resumed["losses"][:20] == losses_of(one)[:20]
    assert resumed["losses"] == pytest.approx(losses_of(one), abs=1e-5)
    randomness = two_processes / "resumed" / ".checkpoints" / "step_00000050"
    assert len(list(randomness.glob("random_*.json"))) == 2


def test_sharded_weights_are_saved_whole_and_resumed_in_shards_to_the_bit(two_processes: Path) -> None:
    for rank in range(2):
        sharded = told(two_processes, "sharded", rank)
        assert sharded["is_sharded"]
        assert sharded["resumed_is_equal"]
        assert sharded["difference_to_whole"] < 1e-6


def test_a_launcher_that_starts_one_process_instead_of_two_is_found_out(tmp_path: Path) -> None:
    jobs = {"alone": {"folder": str(tmp_path)}}
    done = launch(jobs, tmp_path, "--cpu", "--num_processes", "2")
    assert done.returncode != 0
    assert "asked for several processes and started one" in done.stderr
    assert not (tmp_path / "alone_0.json").exists()


def test_the_expected_number_comes_from_the_argument_then_from_the_launcher() -> None:
    launched = {"ACCELERATE_MIXED_PRECISION": "no"}
    assert expected_processes({}, None) is None
    assert expected_processes(launched, None) is None
    assert expected_processes({"MASTER_ADDR": "node"}, None) is None
    assert expected_processes({**launched, "MASTER_ADDR": "node", "WORLD_SIZE": "4"}, None) == 4
    assert expected_processes({**launched, "MASTER_ADDR": "node"}, 1) == 1
    with pytest.raises(RuntimeError, match=r"cpu_2proc\.yaml"):
        expected_processes({**launched, "MASTER_ADDR": "127.0.0.1"}, None)


def test_a_world_of_another_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="2 processes were asked for and 1 run together"):
        run_toy(tmp_path, loop={"num_processes_expected": 2})
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="independent copies would overwrite each other"):
        run_toy(tmp_path)


def test_gradients_that_differ_between_processes_are_refused() -> None:
    check_same_norm([1.0, 1.0 + 1e-7])
    check_same_norm([0.0, 0.0])
    with pytest.raises(RuntimeError, match="drifted apart"):
        check_same_norm([1.0, 1.01])


def test_processes_that_start_apart_are_refused(two_processes: Path) -> None:
    for rank in range(2):
        refusal = told(two_processes, "apart", rank)["refusal"]
        assert refusal.startswith("the processes start from different weights")


def test_sigterm_to_a_real_process_ends_it_with_143_after_a_checkpoint(tmp_path: Path) -> None:
    jobs = {"long": {"folder": str(tmp_path), "loop": {"max_steps": 1_000_000, "evaluate_every": 0}}}
    jobs["long"]["output"] = {"checkpoint_every": 1_000_000, "log_every": 50}
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, TOY_SCRIPT, str(tmp_path / "jobs.json")]
    process = subprocess.Popen(command, env=launch_environment(), stderr=subprocess.DEVNULL)
    log, deadline = tmp_path / ".logs" / "training.jsonl", time.monotonic() + 60
    while not (log.exists() and log.read_text()):
        assert time.monotonic() < deadline, "no step was logged"
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    assert len(list((tmp_path / ".checkpoints").glob("step_*/COMPLETE"))) == 1


def test_topologies_say_nothing_but_topology() -> None:
    files = sorted((REPOSITORY / "recipes" / "accelerate").glob("*.yaml"))
    assert [file.stem for file in files] == ["cpu", "cpu_2proc", "fsdp2", "multi_gpu", "single_gpu"]
    allowed = {"compute_environment", "distributed_type", "fsdp_config", "gpu_ids", "machine_rank", "num_machines"}
    for file in files:
        assert file.read_text().startswith("#")
        keys = set(yaml.safe_load(file.read_text()))
        assert keys <= allowed | {"num_processes", "use_cpu"}
        assert {"distributed_type", "num_processes", "use_cpu"} <= keys
