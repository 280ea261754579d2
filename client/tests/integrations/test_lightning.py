"""The logger under a real fit of one weight, its rows read from the spool."""

import warnings

import pytest
from spools import all_lines

import stepclock

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason="needs torch", exc_type=ImportError)
    lightning = pytest.importorskip("lightning", reason="needs lightning")
    from stepclock.integrations.lightning import StepclockLogger

pytestmark = pytest.mark.filterwarnings("default")  # theirs are not ours to mend

OFFLINE = {"mode": "offline", "handle_signals": False, "system_interval": 0}


class Line(lightning.LightningModule):
    def __init__(self, lr, fails_at=None):
        super().__init__()
        self.save_hyperparameters()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def _loss(self, batch):
        x, y = batch
        return ((self.weight * x - y) ** 2).mean()

    def training_step(self, batch, index):
        if index == self.hparams.fails_at:
            raise ArithmeticError("out of luck")
        loss = self._loss(batch)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, index):
        self.log("val/loss", self._loss(batch))

    def test_step(self, batch, index):
        self.log("test/loss", self._loss(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)


DATA = [(torch.tensor(n / 8), torch.tensor(n / 4)) for n in range(8)]


def loader():
    return torch.utils.data.DataLoader(DATA, batch_size=2)


@pytest.fixture
def trainer(tmp_path):
    def make(logger):
        return lightning.Trainer(
            accelerator="cpu",
            max_epochs=2,
            logger=logger,
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )

    return make


def fields(line):
    return line.split(" ")[1]


def runs():
    return {line.split("run=")[1].split(" ")[0].split(",")[0] for line in all_lines()}


def test_a_fit_s_metrics_hyperparameters_and_checkpoints_arrive(trainer):
    logger = StepclockLogger("resnet", **OFFLINE)
    trainer(logger).fit(Line(lr=0.25), loader(), loader())
    logger.experiment.finish()
    rows = all_lines()
    assert {line.split(",")[0] for line in rows} == {"resnet"}
    steps = [int(fields(r).split("step=")[1].split("i")[0]) for r in rows if "train/loss=" in r]
    assert sorted(steps) == list(range(8))
    assert len([r for r in rows if "val/loss=" in r]) == 2
    events = all_lines("events")
    assert any("key=lr" in line and "number=0.25" in line for line in events)
    checkpoints = [line for line in events if line.startswith("checkpoint,")]
    assert [line.rpartition(",step=")[2].split()[0] for line in checkpoints] == ["4i", "8i"]
    assert ".ckpt" in checkpoints[0]


def test_a_test_behind_the_fit_belongs_to_its_run(trainer):
    logger = StepclockLogger("resnet", **OFFLINE)
    fitting = trainer(logger)
    model = Line(lr=0.1)
    fitting.fit(model, loader())
    fitting.test(model, loader(), verbose=False)
    assert logger.experiment.finish().state == "finished"
    assert any("test/loss=" in line for line in all_lines())
    assert runs() == {logger.version}


def test_a_fit_that_fails_ends_its_run_as_failed_with_the_reason(trainer):
    logger = StepclockLogger("resnet", **OFFLINE)
    with pytest.raises(ArithmeticError):
        trainer(logger).fit(Line(lr=0.1, fails_at=2), loader())
    assert logger.experiment.finish().state == "failed"
    assert any("out of luck" in line for line in all_lines("events"))


def test_it_logs_into_a_run_that_it_is_given_and_does_not_end_it(trainer):
    with stepclock.init("mine", **OFFLINE) as run:
        logger = StepclockLogger(run=run)
        trainer(logger).fit(Line(lr=0.1), loader())
        run.log({"after": 1.0}, step=99)
    assert (logger.name, logger.version) == ("mine", run.id)
    assert any("after=1" in line for line in all_lines())


def test_other_ranks_than_zero_begin_no_run(monkeypatch):
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = StepclockLogger("resnet", **OFFLINE)
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.log_hyperparams({"lr": 0.1})
    logger.finalize("failed")
    assert logger.version is None
