"""A job for `ray job submit`: two Ray Train workers on two hosts add up a tensor by gloo, and report it."""

import socket
import sys
from pathlib import Path

import torch
from ray.train import RunConfig, ScalingConfig, get_context
from ray.train.torch import TorchConfig, TorchTrainer


def work(config: dict) -> None:
    rank = get_context().get_world_rank()
    tensor = torch.full((1000,), float(rank + 1))
    torch.distributed.all_reduce(tensor)
    (Path(config["out"]) / f"rank-{rank}").write_text(f"{socket.gethostname()} {tensor.sum().item():.0f}")


if __name__ == "__main__":
    TorchTrainer(
        work,
        train_loop_config={"out": sys.argv[1]},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=2, placement_strategy="STRICT_SPREAD"),
        run_config=RunConfig(name="spread", storage_path=f"{sys.argv[1]}/train"),
    ).fit()
