"""The callback under the real Trainer, on a model of one weight, its rows read from the spool."""

import warnings

import pytest
from spools import all_lines

import stepclock

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason="needs torch", exc_type=ImportError)
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    pytest.importorskip("accelerate", reason="the Trainer needs accelerate")
    from stepclock.integrations.huggingface import StepclockCallback

pytestmark = pytest.mark.filterwarnings("default")  # theirs are not ours to mend


class Line(torch.nn.Module):
    def __init__(self, nan_at=()):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.calls = 0
        self.nan_at = nan_at

    def forward(self, x, labels=None):
        if self.training:
            self.calls += 1
        loss = ((self.weight * x - labels) ** 2).mean()
        if self.training and self.calls in self.nan_at:
            loss = loss + float("nan")  # the gradient stays what it was
        return {"loss": loss, "logits": self.weight * x}


DATA = [{"x": torch.tensor(n / 8), "labels": torch.tensor(n / 4)} for n in range(8)]


@pytest.fixture
def train(tmp_path):
    """Train with a callback; the Trainer."""

    def run(callback, model=None, **arguments):
        arguments = {"max_steps": 6, "logging_steps": 2, "save_strategy": "no", **arguments}
        trainer = transformers.Trainer(
            model=model or Line(),
            args=transformers.TrainingArguments(
                output_dir=str(tmp_path / "resnet"),
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
                per_device_train_batch_size=2,
                max_grad_norm=0.0,
                **arguments,
            ),
            train_dataset=DATA,
            eval_dataset=DATA,
            callbacks=[callback],
        )
        trainer.train()
        return trainer

    return run


def callback(**arguments):
    return StepclockCallback(mode="offline", handle_signals=False, system_interval=0, **arguments)


def fields(line):
    return line.split(" ")[1]


def test_a_trainer_s_losses_and_evaluations_arrive_at_their_steps(train):
    ours = callback()
    train(ours, eval_strategy="steps", eval_steps=3)
    ours.run.finish()
    rows = all_lines()
    assert {line.split(",")[0] for line in rows} == {"resnet"}
    by_step = {}
    for line in rows:
        step = int(line.split("step=")[1].split("i")[0])
        by_step[step] = by_step.get(step, "") + fields(line)
    assert sorted(by_step) == [2, 3, 4, 6]
    assert "train/loss=" in by_step[2]
    assert "eval/loss=" not in by_step[2]
    assert "eval/loss=" in by_step[3]
    assert "eval/loss=" in by_step[6]


def test_an_evaluation_behind_the_training_belongs_to_its_run(train):
    ours = callback()
    trainer = train(ours)
    trainer.evaluate()
    receipt = ours.run.finish()
    assert receipt.state == "finished"
    assert any("eval/loss=" in line for line in all_lines())
    assert len({line.split("run=")[1].split(" ")[0] for line in all_lines()}) == 1


def test_arguments_are_configuration_and_saved_models_are_checkpoints(train):
    ours = callback()
    train(ours, learning_rate=0.25, save_strategy="steps", save_steps=3)
    ours.run.finish()
    events = all_lines("events")
    assert any("key=args/learning_rate" in line and "number=0.25" in line for line in events)
    checkpoints = [line for line in events if line.startswith("checkpoint,")]
    assert [fields(line).split("step=")[1] for line in checkpoints] == ["3i", "6i"]
    assert "checkpoint-3" in checkpoints[0]


def test_losses_that_the_trainer_hides_are_counted_and_told_once(train, caplog):
    ours = callback()
    train(ours, Line(nan_at=(2, 3, 5)), learning_rate=0.0)
    ours.run.finish()
    assert ours.hidden_losses == 3
    assert len([r for r in caplog.records if "logging_nan_inf_filter" in r.message]) == 1
    counts = [
        f.split("=")[1]
        for line in all_lines()
        for f in fields(line).split(",")
        if f.startswith("train/hidden_losses=")
    ]
    assert [float(count) for count in counts][:3] == [1.0, 2.0, 3.0]


def test_losses_that_the_trainer_shows_are_not_counted_as_hidden(train, caplog):
    ours = callback()
    train(ours, Line(nan_at=(2,)), learning_rate=0.0, logging_nan_inf_filter=False)
    ours.run.finish()
    assert ours.hidden_losses == 0
    assert not [r for r in caplog.records if "logging_nan_inf_filter" in r.message]
    assert any(line.startswith("nonfinite,") for line in all_lines("events"))


def test_a_count_that_fails_does_not_end_the_training(train, caplog):
    class Broken(Line):
        def forward(self, x, labels=None):
            output = super().forward(x, labels)
            return {**output, "loss": Strange(output["loss"]) if self.training else output["loss"]}

    ours = callback()
    assert train(ours, Broken()).state.global_step == 6
    assert ours.hidden_losses == 0
    assert len([r for r in caplog.records if "not counted any more" in r.message]) == 1


class Strange(torch.Tensor):
    """A loss on a device that refuses what the count asks of it."""

    def __new__(cls, loss):
        return loss.as_subclass(cls)

    def isfinite(self):
        raise RuntimeError("not on this device")


def test_a_second_training_from_step_0_is_a_run_of_its_own(train):
    ours = callback()
    trainer = train(ours)
    first = ours.run
    trainer.train()
    assert ours.run is not first
    ours.run.finish()
    assert len({line.split("run=")[1].split(" ")[0] for line in all_lines()}) == 2


def test_it_logs_into_a_run_that_it_is_given_and_does_not_end_it(train):
    with stepclock.init("mine", mode="offline", handle_signals=False, system_interval=0) as run:
        train(StepclockCallback(run=run))
        run.log({"after": 1.0}, step=9)
    assert any("after=1" in line for line in all_lines())
    assert {line.split(",")[0] for line in all_lines()} == {"mine"}


def test_other_processes_than_the_first_begin_no_run(tmp_path):
    ours = callback()
    args = transformers.TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    state = transformers.TrainerState(is_world_process_zero=False)
    ours.on_train_begin(args, state, None)
    ours.on_log(args, state, None, logs={"loss": 1.0})
    ours.on_save(args, state, None)
    assert ours.run is None
