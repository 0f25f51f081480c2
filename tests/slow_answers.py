"""A prediction that takes its time, for tests that kill it: each batch begun leaves the process's id in a file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ecglm.evaluation import predict_answers


def start(orders: Any, device: str) -> Callable[[Any], Any]:
    """As ``predict_answers.start``, 0.3 s a batch; begins once as many processes are there as there are devices."""
    answer = predict_answers.start(orders, device)
    log, number = os.environ["SLOW_ANSWERS"], int(os.environ["SLOW_PROCESSES"])
    Path(f"{log}.{os.getpid()}").touch()
    while len(list(Path(log).parent.glob(f"{Path(log).name}.*"))) < number:
        time.sleep(0.01)

    def slowly(jobs: Any) -> Any:
        with open(log, "a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.3)
        return answer(jobs)

    return slowly
