"""The benchmarks run, say where and what they measured, and the READMEs say what they found."""

import dataclasses
import json
import runpy
import time

import jax
import jax.numpy as jnp
import pytest
from helpers.worlds import ENGINES

from benchmarks import cost, env_steps, gpu, measure, peers, pettingzoo_latency, readme, report, scaling
from benchmarks.measure import Effort, Run

KEYS = {"benchmark", "engine", "scenario", "num_agents", "num_envs", "agent_steps_per_s", "compile_s", "device"}
KEYS |= {"commit", "versions"}
TINY = Effort(repeats=1, seconds=0.001)
RUNS = {
    env_steps: env_steps.Options(TINY, cases=("open:2:2",), compile_times=False),
    pettingzoo_latency: pettingzoo_latency.Options(TINY, num_agents=(2,), resets=1, first_use=False),
    scaling: scaling.Options(TINY, engines=("jax",), counts=(2,), arena=(4.0, 3.0), reference="open:2:2"),
    peers: peers.Options(TINY, engines=("jax",), peers=("vmas",), cases=("open:2:2",)),
    gpu: gpu.Options(quick=True),
}


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Speed does not matter here."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.slow
@pytest.mark.parametrize("module", RUNS, ids=lambda module: module.__name__)
@pytest.mark.filterwarnings("ignore")  # other people's simulators
def test_a_benchmark_runs_end_to_end(module, tmp_path):
    path = tmp_path / "results" / "rows.json"
    module.main(dataclasses.replace(RUNS[module], json=path))
    rows = json.loads(path.read_text())
    assert rows
    for row in rows:
        assert row.keys() >= KEYS, row
        assert row["benchmark"].split("/")[0] == module.__name__.removeprefix("benchmarks.")
        assert row["agent_steps_per_s"] > 0


def test_worlds_are_added_until_the_memory_is_full_or_it_no_longer_pays(monkeypatch, capsys):
    def measured(case, effort):
        if case.num_envs > 64:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return {"num_envs": case.num_envs, "agent_steps_per_s": min(case.num_envs, 16)}

    monkeypatch.setattr(gpu, "measured", measured)
    assert [row["num_envs"] for row in gpu.worlds((1, 4, 16, 64, 256), TINY)] == [1, 4, 16, 64]
    assert [row["num_envs"] for row in gpu.worlds((1, 256), TINY)] == [1]
    assert "10 x 256 worlds do not fit" in capsys.readouterr().out


def test_a_first_use_prints_when_its_step_was_done(tmp_path, capsys):
    script = tmp_path / "first_use.py"
    script.write_text(pettingzoo_latency.FIRST_USE.format(num_agents=2, engine="jax"))
    runpy.run_path(str(script))
    assert float(capsys.readouterr().out) == pytest.approx(time.time(), abs=60)


def test_a_fresh_interpreter_has_its_own_variables_and_passes_its_error_on(monkeypatch):
    monkeypatch.setenv("SET", "1")
    code = "import os; print(os.environ.get('SET'), os.environ['NEW'])"
    assert measure.python("-c", code, SET=None, NEW="2") == "None 2\n"
    with pytest.raises(RuntimeError, match="KeyError"):
        measure.python("-c", code)


def test_runs_take_turns_and_their_medians_are_compared():
    order = []

    def sleeper(name, seconds):
        def go(num_steps):
            order.append(name)
            time.sleep(num_steps * seconds)

        return Run({"engine": name, "case": 0}, go, work=10)

    rows = measure.measure([sleeper("slow", 0.01), sleeper("fast", 0.002)], Effort(3, 0.05))
    assert order[-6:] == ["slow", "fast"] * 3
    assert 500 < rows[0]["agent_steps_per_s"] <= 1000
    measure.add_ratios(rows, "case")
    assert rows[1]["ratios"] == {"slow": pytest.approx(5, rel=0.3)}


@pytest.mark.parametrize(("step", "episode", "seconds", "count"), [(1, 200, 2e3, 2000), (1, 200, 50, 50), (5, 9, 1, 1)])
def test_a_run_is_whole_episodes_or_a_part_of_one(step, episode, seconds, count, monkeypatch):
    monkeypatch.setattr(measure, "seconds_of", lambda go, num_steps: num_steps * step)
    assert measure.run_length(Run({}, None, 1, episode), seconds) == count


def test_operations_in_loops_count_as_often_as_they_run():
    def loop(x):
        return jax.lax.fori_loop(0, 7, lambda i, x: jnp.sin(x) + 1, x)

    assert cost.cost(loop, jnp.ones(10)).operations == pytest.approx(7 * 20, abs=10)
    product = cost.cost(lambda a, b: a @ b, jnp.ones((3, 4)), jnp.ones((4, 5)))
    assert product == cost.Cost(operations=2 * 3 * 4 * 5, bytes=4 * (12 + 20 + 15))


def test_devices_are_known_by_name():
    assert cost.device_limits("NVIDIA H100 80GB HBM3") == (3.35e12, 67e12)
    assert cost.device_limits("NVIDIA L4") == (0.3e12, 30.3e12)
    assert cost.device_limits("NVIDIA L40S") is None
    assert cost.device_limits("cpu") is None


def row(benchmark, engine, num_agents, num_envs, **fields):
    same = {"scenario": "open", "agent_steps_per_s": 1_000_000, "compile_s": 2.04, "device": "a machine"}
    same |= {"benchmark": benchmark, "engine": engine, "num_agents": num_agents, "num_envs": num_envs}
    return same | fields


SAMPLES = {
    "env_steps": [
        row("env_steps", "numba", 10, 1024, compile_cached_s=0.5),
        row("env_steps", "jax", 10, 1024, compile_cached_s=0.9, state_bytes_per_world=804),
    ],
    "scaling": [
        row("scaling", engine, count, 1, series=series, size=[8, 6], world_steps_per_s=123.4, agent_step_ns=1000)
        for engine in ENGINES
        for series in ("density", "arena")
        for count in (10, 10_000)
    ],
    "pettingzoo_latency": [
        row("pettingzoo_latency", "numba", 10, 1, world_steps_per_s=9876.5, reset_s=2e-4, first_use_s=9, second_use_s=1)
    ],
    "peers": [
        row("peers", "numba", 10, 256, ratios={"vmas": 54.3}),
        row("peers", "vmas", 10, 256, agent_steps_per_s=18_416, ratios={"numba": 0.01842}),
    ],
    "gpu": [
        row("gpu/worlds", "jax", 10, 4096, bytes_share=0.21, operations_share=None, device="a GPU"),
        row("gpu/training", "jax", 10, 256, device="a GPU"),
    ],
}


@pytest.fixture
def results(tmp_path):
    for name, rows in SAMPLES.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    return tmp_path


@pytest.mark.parametrize(
    "line",
    [
        "| `open` | 10 x 1,024 | numba | 1,000,000 | 2.0 | 0.5 |  |",
        "| `open` | 10 x 1,024 | jax | 1,000,000 | 2.0 | 0.9 | 804 |",
        "Steps a second of one world of 8 x 6 m with 10,000 robots: 123 with numba, 123 with jax.",
        "| 10 | numba | 9,876 | 0.20 | 9.0 | 1.0 |",
        "| VMAS `navigation` | 10 x 256 | 18,416 | 54.3 x |",
        "| `open` | 10 x 4,096 | 1,000,000 | 21.0 % |  |",
        "| PPO update | 10 x 256 | 1,000,000 |  |  |",
        "Measured on a machine; commits and versions are in [results](results).",
    ],
)
def test_the_readme_of_benchmarks_tells_what_was_measured(line, results):
    assert line in readme.figures(results).splitlines()


def test_the_readme_leaves_out_what_was_not_measured(results):
    (results / "peers.json").unlink()
    assert "simulators" not in readme.figures(results)
    assert "training" not in readme.figures(results)


def test_the_first_readme_tells_the_speed_of_all_and_what_is_trained(results):
    assert "| agent steps/s, 10 x 256 worlds | 1,000,000 with numba | 18,416 |  |  |" in readme.summary(results)
    assert "trained in" not in readme.summary(results)
    (results / "peers.json").unlink()
    assert "agent steps/s" not in readme.summary(results)
    trained = {"total_s": 30.0, "agent_steps": 5_079_040, "success": {"mean": 1.0}, "world_success": {"mean": 0.5}}
    rows = [row(f"training/{name}", "jax", 10, 256, **trained) for name in ("quickstart", "scenarios")]
    (results / "training.json").write_text(json.dumps([rows[0], rows[1] | {"scenario": "rooms"}, rows[1]]))
    lines = readme.summary(results).splitlines()
    assert "| `open`, the default, 1 seeds | 5 M | 30 | 100.0 % | 50.0 % |" in lines
    assert "| `rooms`, the default | 5 M | 30 | 100.0 % | 50.0 % |" in lines
    (results / "detours.json").write_text(json.dumps([row("detours/maze/0", "jax", 10, 64, **trained)]))
    assert "| `maze`, `--preset memory` | 5 M | 30 | 100.0 % | 50.0 % |" in readme.summary(results).splitlines()


def test_the_page_tells_the_native_trainer_beside_sb3(results):
    phases = dict.fromkeys(("rollout_steps_per_s", "update_steps_per_s"), 2_000)
    shares = {f"{part}_share_of_rollout": 0.2 for part in ("env", "lstm", "bootstrap")} | {
        "rollout_s": 1.0,
        "update_s": 9.0,
    }
    figures = {"success": {"mean": 1.0}, "deterministic": {"success": {"mean": 1.0}}, "agent_steps": 9, "episodes": 2}
    rows = [row("sb3/speed", "numba", 10, 8)]
    rows += [row("sb3/speed", "numba", 10, 8, policy=policy, **phases, **shares) for policy in ("stock", "ours")]
    rows += [
        row("sb3/speed", "jax", 10, 8, policy="native", sequence_length=128),
        row("sb3/training", "numba", 10, 8, **figures),
    ]
    (results / "sb3.json").write_text(json.dumps(rows))
    lines = readme.figures(results).splitlines()
    assert "| rollouts | 6,400 | 2,000 | 2,000 |  |" in lines
    assert "| both | 293 | 1,000,000 | 1,000,000 | 1,000,000 |" in lines


@pytest.mark.parametrize("page", readme.PAGES)
def test_the_readmes_are_up_to_date(page):
    text = (readme.ROOT / page).read_text()
    assert readme.replaced(text, readme.PAGES[page]()) == text


def test_both_readmes_are_written(results, tmp_path):
    for page in readme.PAGES:
        path = tmp_path / page
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"before\n{readme.BEGIN}old\n{readme.END}\nafter\n")
    readme.main(readme.Options(results, tmp_path))
    for page, text in ((tmp_path / page, write(results)) for page, write in readme.PAGES.items()):
        assert page.read_text() == f"before\n{readme.BEGIN}{text}{readme.END}\nafter\n"


def test_plots_are_drawn_of_what_was_measured(results):
    plots = pytest.importorskip("benchmarks.plots", reason="matplotlib is not installed", exc_type=ImportError)
    (results / "gpu.json").unlink()
    plots.main(plots.Options(results))
    assert {path.name for path in results.glob("*.png")} == {"scaling.png", "peers.png"}


def test_rows_of_other_suites_stay(tmp_path):
    for benchmark in ("a", "b", "a"):
        report.save_rows(tmp_path / "rows.json", [row(benchmark, "jax", 1, 1)], keep="benchmark")
    assert [each["benchmark"] for each in report.load_rows("rows", tmp_path)] == ["b", "a"]
