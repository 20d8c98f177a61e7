"""Checkpoints of a sharded student (``TrainConfig.shard``): each process writes and reads its own shard.

transformers' trainer cannot write checkpoints of a model that is sharded as it is loaded.
``torch.distributed.checkpoint`` records which part each shard is, so a run can resume with another number of processes.
A checkpoint holds

    shares/             the trained weights and the optimizer state
    scheduler.pt, rng_state_*.pth, trainer_state.json    as transformers writes them; trainer_state.json is last
"""

from pathlib import Path
from typing import Any


def with_shares(trainer: Any) -> Any:
    """A subclass of ``trainer`` with sharded checkpoints. Requires ``save_only_model``, since the trainer refuses to
    write its own."""
    import torch
    from torch.distributed import checkpoint as shares
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

    learnt = StateDictOptions(ignore_frozen_params=True, strict=False)

    class SharesTrainer(trainer):  # type: ignore[misc]  # transformers is untyped to mypy
        model: Any
        optimizer: Any
        lr_scheduler: Any
        args: Any
        state: Any

        def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
            folder = Path(output_dir or self.args.output_dir)
            self._save_rng_state(str(folder))
            if self.args.should_save:
                torch.save(self.lr_scheduler.state_dict(), folder / "scheduler.pt")
            weights, memory = get_state_dict(self.model, self.optimizer.optimizer, options=learnt)
            shares.save({"weights": weights, "memory": memory}, checkpoint_id=folder / "shares")

        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
            """Does nothing: the weights are loaded together with the optimizer state."""

        def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
            if checkpoint is not None:
                self._load_shares(checkpoint)
                self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint, "scheduler.pt"), weights_only=True))

        def _load_best_model(self) -> None:
            self._load_shares(self.state.best_model_checkpoint)

        def _load_shares(self, checkpoint: str) -> None:
            weights, memory = get_state_dict(self.model, self.optimizer.optimizer, options=learnt)
            shares.load({"weights": weights, "memory": memory}, checkpoint_id=Path(checkpoint, "shares"))
            set_state_dict(
                self.model,
                self.optimizer.optimizer,
                model_state_dict=weights,
                optim_state_dict=memory,
                options=learnt,
            )

    return SharesTrainer
