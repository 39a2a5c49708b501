"""What a run will cost against what it took, and combinations that cannot work found without computing."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from small_study import write_study

import mlresearch.estimate
from mlresearch.errors import UserError
from mlresearch.estimate import Estimator, Machine, num_equations, peak_bytes
from mlresearch.study import Study, make_run
from mlresearch.train import train_together

TEXT = {
    "data.name": "synthetic/text",
    "encoder.name": "text_transformer",
    "encoder.text_transformer.dim": 16,
    "encoder.text_transformer.num_heads": 2,
    "text.vocab_size": 200,
    "data.synthetic.num_words": 50,
}
BAG = {"data.name": "synthetic/text", "encoder.name": "bag", "text.vocab_size": 200, "text.num_buckets": 1}


@pytest.fixture(scope="module")
def config_file(tmp_path_factory, data_dir):
    folder = tmp_path_factory.mktemp("estimate")
    write_study(folder, data_dir)
    return str(folder / "config.py")


def test_parameters_and_steps_are_those_of_the_run(config_file, tmp_path):
    config = make_run(BAG, config_file).config
    cost, [record] = Estimator().cost(config), train_together([config], [tmp_path / "run"])
    assert cost.num_parameters == record["num_parameters"]
    assert cost.num_steps == record["num_steps"]


def test_linear_scores_are_counted_and_not_learnt(config_file, tmp_path, monkeypatch):
    wide = {"encoder.name": "mlp", "linear_scores.classifier": "logistic_regression", "linear_scores.folds": 2}
    config = make_run(BAG | wide, config_file).config
    [record] = train_together([config], [tmp_path / "run"])
    monkeypatch.setattr("mlresearch.linear_scores.LinearScores.learn", None)
    cost = Estimator().cost(config)
    assert cost.num_parameters == record["num_parameters"]
    assert cost.num_steps == record["num_steps"]


def test_a_program_is_traced_once(config_file, monkeypatch):
    traced = []
    make = mlresearch.estimate.make_train_step
    monkeypatch.setattr(mlresearch.estimate, "make_train_step", lambda *given: traced.append(given[0]) or make(*given))
    monkeypatch.setattr(Machine, "measure", classmethod(lambda cls: cls(1e9, 1e9)))
    estimator = Estimator()
    overrides = [{"seed": seed, "optim.learning_rate": rate} for seed in range(3) for rate in (0.1, 0.2)]
    overrides += [{"seed": seed, "encoder.mlp.dim": 16} for seed in range(3)]
    runs = [make_run(each, config_file) for each in overrides]
    for run in runs:
        estimator.check(run.config)
    costs = [estimator.cost(run.config) for run in runs]
    assert [config.encoder.mlp.dim for config in traced] == [8, 16]
    assert len({*costs}) == 2


def test_a_check_computes_no_step(config_file):
    config = make_run({}, config_file).config
    estimator = Estimator()
    estimator.check(config)  # reads the data
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jax._src.compiler.backend_compile_and_load", None)
        estimator._traced.clear()
        estimator.check(config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"head.name": "max_constraint", "data.synthetic.shape": "flat"}, "needs a label hierarchy"),
        ({"head.name": "conditional", "data.synthetic.shape": "flat"}, "needs a label hierarchy"),
        (
            {
                "head.name": "conditional",
                "head.conditional.siblings": "one",
                "data.synthetic.shape": "dag",
                "data.synthetic.num_labels": 30,
            },
            "one parent",
        ),
        (TEXT | {"encoder.text_transformer.num_heads": 3}, "3"),
        ({"data.name": "synthetic/text"}, "'mlp'"),
        ({"encoder.name": "bag"}, "'bag'"),
    ],
)
def test_combinations_that_cannot_work_are_told(overrides, message, config_file):
    with pytest.raises(UserError, match=message):
        Estimator().check(make_run(overrides, config_file).config)


def test_a_baseline_is_checked_for_what_it_reads(config_file):
    run = make_run({"baseline": "nearest_description"}, config_file)
    with pytest.raises(UserError, match="reads texts"):
        Estimator().check(run.config)
    run = make_run({"baseline": "nearest_description", "data.name": "synthetic/text"}, config_file)
    Estimator().check(run.config)


def test_peaks_and_equations_are_those_of_programs_counted_by_hand():
    def line(x):  # each value is dead when the next one is made: two at once
        return jnp.sin(jnp.cos(jnp.sin(x)))

    def residuals(x):  # what is used at the end is held until then: a, b, and c, then the result
        a = jnp.sin(x)
        b = jnp.cos(a)
        c = jnp.sin(b)
        return a + b * c

    x = jnp.zeros(256)
    for function, number, values in ((line, 3, 2), (residuals, 5, 4)):
        for program in (function, jax.jit(function)):  # a part counts as the equation that calls it, and as its own
            jaxpr = jax.make_jaxpr(program)(x).jaxpr
            assert num_equations(jaxpr) == number + (program is not function)
            assert peak_bytes(jaxpr) == values * x.nbytes
    looped = jax.make_jaxpr(lambda x: jax.lax.scan(lambda carry, _: (line(carry), None), x, length=5)[0])(x).jaxpr
    assert peak_bytes(looped) == 2 * x.nbytes


def test_a_step_holds_what_the_compiler_finds_that_it_needs(config_file):
    """Within a factor of two, for a program whose activations are larger than its parameters."""
    estimator = Estimator()
    traced = estimator._trace(make_run({"train.batch_size": 4096, "encoder.mlp.dim": 64}, config_file).config)
    program = jax.jit(traced.step).trace(*traced.arguments)
    needed = program.lower().compile().memory_analysis()
    total = needed.temp_size_in_bytes + needed.output_size_in_bytes
    assert total / 2 < peak_bytes(program.jaxpr.jaxpr) < total * 2


def test_memory_is_right_within_a_factor_of_three(tmp_path, data_dir):
    """Of a program whose parameters take more than the libraries. Time depends on who else uses the machine."""
    wide = {"encoder.mlp.dim": 2000, "encoder.mlp.num_layers": 3, "train.num_epochs": 1.0}
    study = Study.load(write_study(tmp_path, data_dir, f"[{wide}]"))
    code = f"""if True:
        import re
        from pathlib import Path
        from mlresearch.study import Study
        from mlresearch.train import train_together
        train_together([Study.load({str(study.folder)!r}).runs[0].config], [Path({str(tmp_path / "run")!r})])
        # Not ru_maxrss, which a new process has of the one that started it, the tests themselves.
        print(1024 * int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]))
    """
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    cost = Estimator().cost(study.runs[0].config)
    assert cost.num_parameters * 12 > 90e6  # with two moments, float32 each
    assert 1 / 3 < (cost.shared_bytes + cost.run_bytes) / int(made.stdout.split()[-1]) < 3
