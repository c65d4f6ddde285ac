"""An audit by the clock: a Prefect deployment that this process serves."""

from __future__ import annotations

import asyncio
import os
import zoneinfo
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from prefect.schedules import Cron
from prefect.server.schemas.schedules import CronSchedule
from prefect.types.entrypoint import EntrypointType

from flows.audit import audit_flow
from flows.server import configured_server
from pipeline.config import load_config
from pipeline.errors import InputError

LOCAL_TIME = Path("/etc/localtime")


@dataclass(frozen=True)
class SchedulePlan:
    """What is run, when, and the server that keeps the clock."""

    config_path: str
    name: str
    changes: dict[str, Any]
    schedule: CronSchedule
    next_run: datetime
    server: str

    @property
    def deployment(self) -> str:
        return f"{audit_flow.name}/{self.name}"

    def describe(self) -> str:
        when = f"{self.schedule.cron!r} in {self.schedule.timezone}"
        return (
            f"Runs the audit of {self.config_path} by {when}.\n"
            f"next run     {self.next_run:%A %Y-%m-%d %H:%M %Z}\n"
            f"deployment   {self.deployment} on {self.server}\n"
            "Runs happen while this command runs; Ctrl-C ends it."
        )


def plan(
    config_path: str | Path, cron: str, timezone: str | None = None, changes: dict[str, Any] | None = None
) -> SchedulePlan:
    """Check everything that a scheduled audit needs.

    timezone: of the cron expression, an IANA name; by default this machine's.

    Raises InputError for a wrong config, cron expression or time zone, and when no Prefect server answers.
    """
    config = load_config(config_path, changes)
    zone = timezone or _local_timezone()
    if zone not in zoneinfo.available_timezones():
        raise InputError(
            f"--timezone: unknown time zone {zone!r}", "Give an IANA name, such as Europe/Berlin."
        )
    try:
        schedule = CronSchedule(cron=cron, timezone=zone)
        next_run = asyncio.run(schedule.get_dates(1))[0]
    except (ValueError, IndexError):
        raise InputError(
            f"--cron: {cron!r} is not a cron expression",
            'Five fields: minute, hour, day of month, month, day of week; "0 3 * * 1" is Monday at 3.',
        ) from None
    server = configured_server()
    if server is None:
        raise InputError(
            "a schedule needs a Prefect server that keeps running, and none is configured",
            "Start one by `prefect server start`, and set PREFECT_API_URL=http://127.0.0.1:4200/api here.",
        )
    return SchedulePlan(
        str(Path(config_path).resolve()), config.name, changes or {}, schedule, next_run, server
    )


def _local_timezone() -> str:
    """The IANA name of this machine's time zone, or UTC if it has none."""
    name = os.environ.get("TZ", "").lstrip(":") or str(LOCAL_TIME.resolve()).partition("zoneinfo/")[2]
    return name if name in zoneinfo.available_timezones() else "UTC"


def serve(planned: SchedulePlan) -> None:
    """Serve the deployment until this process is stopped; one run at a time, each in a process of its own
    with this working directory."""
    audit_flow.serve(
        name=planned.name,
        schedule=Cron(planned.schedule.cron, timezone=planned.schedule.timezone),
        parameters={"config_path": planned.config_path, "changes": planned.changes, "output": None},
        entrypoint_type=EntrypointType.MODULE_PATH,
        print_starting_message=False,
        limit=1,
    )
