"""What a Kafka broker needs on disk: jars, a formatted data folder, an archive of its classes.

Prepared once for each user. The data folder saves every broker the run of a second JVM that
would format it; the class archive (JEP 350) brings a start from five seconds to two.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from native.step import Report, cache_folder, exclusive, run_step

#: The newest release whose artifacts are complete on Maven Central.
VERSION = "4.3.1"

POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>stepclock</groupId>
  <artifactId>kafka</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>{VERSION}</version>
    </dependency>
    <!-- Kafka brings slf4j 1.7: hence log4j-slf4j-impl, not log4j-slf4j2-impl -->
    <dependency>
      <groupId>org.apache.logging.log4j</groupId>
      <artifactId>log4j-slf4j-impl</artifactId>
      <version>2.25.1</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId>
      <artifactId>log4j-core</artifactId>
      <version>2.25.1</version>
    </dependency>
  </dependencies>
</project>
"""

LOGGING = """\
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{HH:mm:ss.SSS} %-5p %c{1}: %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
"""

# Only what StorageTool insists on; none of it ends up in the formatted folder.
FORMAT_PROPERTIES = """\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093
advertised.listeners=PLAINTEXT://127.0.0.1:9092
controller.listener.names=CONTROLLER
controller.quorum.voters=1@127.0.0.1:9093
log.dirs={log_dir}
"""


@dataclass(frozen=True, slots=True)
class KafkaFiles:
    """Paths of what is prepared. Everything but the archive stands or falls together."""

    home: Path
    #: Class archive for the JVM found on the path; made last, and a start works without it.
    archive: Path

    @property
    def classpath(self) -> str:
        """All jars, in the form that java takes."""
        return f"{self.home}/lib/*"

    @property
    def formatted(self) -> Path:
        """A data folder of node 1 as StorageTool leaves it, to be copied."""
        return self.home / "formatted"

    @property
    def logging(self) -> Path:
        """log4j settings: warnings and worse to standard output."""
        return self.home / "log4j2.properties"

    @property
    def complete(self) -> bool:
        """Whether a broker can be started from them."""
        return self.home.is_dir()


def kafka_files() -> KafkaFiles:
    """The paths, prepared or not."""
    root = cache_folder("kafka")
    return KafkaFiles(home=root / VERSION, archive=root / f"classes-{VERSION}-{_jvm_key()}.jsa")


def missing() -> list[str]:
    """Programs that a broker needs and that are not installed."""
    needed = ["java"] if kafka_files().complete else ["java", "mvn"]
    return [program for program in needed if shutil.which(program) is None]


def ensure_files(report: Report) -> KafkaFiles:
    """Fetch the jars with Maven and format a data folder, unless that was done before.

    Takes about 15 s the first time. Raises PreparationFailed.
    """
    files = kafka_files()
    if files.complete:
        return files
    with exclusive(files.home.parent, report) as work:
        if not files.complete:
            building = work / "home"
            building.mkdir()
            _fetch_jars(building, work, report)
            _format(building, work, report)
            (building / "log4j2.properties").write_text(LOGGING)
            building.rename(files.home)
    return files


def _fetch_jars(home: Path, work: Path, report: Report) -> None:
    (work / "pom.xml").write_text(POM)
    run_step(
        f"Kafka {VERSION}: fetching jars with Maven",
        [
            *("mvn", "--batch-mode", "--no-transfer-progress", "-f", str(work / "pom.xml")),
            "dependency:copy-dependencies",
            f"-DoutputDirectory={home / 'lib'}",
            "-DincludeScope=runtime",
        ],
        log_path=work / "maven.log",
        report=report,
        timeout_s=600.0,
    )


def _format(home: Path, work: Path, report: Report) -> None:
    properties = work / "format.properties"
    properties.write_text(FORMAT_PROPERTIES.format(log_dir=home / "formatted"))
    cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    run_step(
        f"Kafka {VERSION}: formatting a data folder",
        [
            *("java", "-cp", f"{home / 'lib'}/*", "kafka.tools.StorageTool"),
            *("format", f"--cluster-id={cluster_id}", "--config", str(properties)),
        ],
        log_path=work / "format.log",
        report=report,
        timeout_s=120.0,
    )


def _jvm_key() -> str:
    """Changes with the installed JVM, since no other can use its archive."""
    java = shutil.which("java")
    if java is None:
        return "none"
    path = Path(java).resolve()
    identity = f"{path} {path.stat().st_mtime_ns}"
    return hashlib.sha256(identity.encode()).hexdigest()[:12]
