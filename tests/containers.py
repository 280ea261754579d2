"""Services in Docker containers, by testcontainers; whatever goes wrong is `Absent` in time.

Imported only where something listens at the engine's address.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager

from native.ports import free_ports
from tests.services import Absent

ENGINE_TIMEOUT_S = 5
PULL_TIMEOUT_S = 120.0
READY_TIMEOUT_S = 60.0
POLL_S = 0.1

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of their imports; ours are errors
    import docker
    from docker.errors import APIError, DockerException, ImageNotFound
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.docker_client import DockerClient


@contextmanager
def container(
    image: str,
    port_inside: int,
    *,
    env: Callable[[str, int], Mapping[str, str]],
    ready: Callable[[str, int], bool],
) -> Iterator[tuple[str, int]]:
    """Run an image until the block is left; gives the host and port where it is reached.

    `env` is told them too, since a Kafka broker sends its clients to where it says it is.
    Raises Absent.
    """
    try:
        docker.from_env(timeout=ENGINE_TIMEOUT_S).close()  # asks the engine for its version
    except (DockerException, OSError) as exc:
        raise Absent("no Docker engine answers") from exc
    _ensure_image(image)
    if not testcontainers_config.ryuk_disabled:  # removes containers of a killed session
        _ensure_image(testcontainers_config.ryuk_image)
    host, port = DockerClient().host(), free_ports(1)[0]
    started = DockerContainer(image).with_bind_ports(port_inside, port)
    started = started.with_envs(**env(host, port))
    try:
        started.start()
    except Exception as exc:  # testcontainers lets through whatever comes
        started.stop()
        raise Absent(f"Docker does not start {image}: {exc}") from exc
    try:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not ready(host, port):
            if time.monotonic() > deadline:
                raise Absent(f"{image} does not answer at {host}:{port} in {READY_TIMEOUT_S:g} s")
            time.sleep(POLL_S)
        yield host, port
    finally:
        started.stop()


def _ensure_image(name: str) -> None:
    """Pull an image unless the engine has it, waiting no longer than a test session should."""
    done: Future[None] = Future()

    def pull() -> None:
        engine = docker.from_env()
        try:
            try:
                engine.images.get(name)
            except ImageNotFound:
                engine.images.pull(name)
        except (APIError, OSError) as exc:
            done.set_exception(exc)
        else:
            done.set_result(None)
        finally:
            engine.close()

    # A daemon, so that a pull which hangs does not keep the session from ending.
    threading.Thread(target=pull, name="pull", daemon=True).start()
    try:
        done.result(PULL_TIMEOUT_S)
    except TimeoutError:
        raise Absent(f"Docker has not pulled {name} within {PULL_TIMEOUT_S:g} s") from None
    except (APIError, OSError) as exc:
        raise Absent(f"Docker can't pull {name}: {exc}") from exc
