"""What changes while training goes on: the learning rate, the mixture and the solver's steps."""

import datetime
import time


class Schedule:
    """Progress 0..1 by steps, or by wall clock towards a deadline; and what depends on it."""

    def __init__(self, args, begun, rate):
        """begun: Unix time of the start, less the pauses. rate: of the step before, 0 at the start."""
        self.steps, self.begun, self.rate = args.steps, begun, rate
        self.deadline = next_time(args.until) if args.until else begun + 60 * args.minutes
        self.plain_start, self.plain_end = args.plain_start, args.plain_end
        self.warmup = args.warmup

    def progress(self, step):
        if self.steps:
            return min(1.0, step / self.steps)
        return min(1.0, (time.time() - self.begun) / max(1.0, self.deadline - self.begun))

    def next_rate(self, progress):
        """Flat, then linear to zero over the last 60 %; it never rises by more than 1 / warmup a step.

        So a run begins gently, and so does one that was given more steps after its rate had sunk.
        """
        self.rate = min(1.0, self.rate + 1 / self.warmup, (1 - progress) / 0.6)
        return self.rate

    def share(self, progress):
        """More plain stories towards the end: what is learned last is remembered best."""
        return self.plain_start + (self.plain_end - self.plain_start) * progress

    def cg_steps(self, progress):
        return 5 if progress < 0.7 else 8


def next_time(text):
    """Unix time of the next HH:MM in UTC."""
    hour, minute = map(int, text.split(":"))
    now = datetime.datetime.now(datetime.timezone.utc)
    then = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    if then <= now:
        then += datetime.timedelta(days=1)
    return then.timestamp()
