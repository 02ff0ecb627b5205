"""The operating system as far as reading the settings asks it, without one."""

from collections.abc import Mapping

from edge_agent.config_sources import Machine

NO_SUCH_FILE = "No such file or directory"


def machine(
    files: Mapping[str, str] | None = None,
    *,
    directories: tuple[str, ...] = ("/", "/host"),
    writable: tuple[str, ...] = (),
    grpcio: bool = True,
    protobuf: bool = True,
    stderr_id: str = "8:12",
) -> Machine:
    """A machine called edge-07 with `files` (path -> text), `directories` and a home."""
    texts = {} if files is None else files

    def read_text(path: str) -> str:
        if path not in texts:
            raise FileNotFoundError(2, NO_SUCH_FILE, path)
        return texts[path]

    return Machine(
        read_text=read_text,
        unreadable=lambda path: None if path in texts else NO_SUCH_FILE,
        exists=lambda path: path in texts,
        is_directory=lambda path: path.rstrip("/") in {d.rstrip("/") for d in directories},
        writable_directory=lambda path: path in writable,
        host_name=lambda: "edge-07",
        home=lambda: "/home/pulse",
        stderr_id=lambda: stderr_id,
        grpcio_installed=lambda: grpcio,
        protobuf_installed=lambda: protobuf,
        pid=4711,
    )
