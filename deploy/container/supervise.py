#!/usr/bin/python3
"""Process 1 of the container: supervisord, and what a container needs beyond it.

It takes supervisord's arguments and reads supervisord.conf. On top of that:

- The container ends, with status 1, when a program can't be started any more (FATAL). supervisord alone would go on with the others, or end with 0, and
  nobody would start the container again.
- What the programs write goes to their files and, by lines, to the container's standard output. That never waits: a reader that has stopped costs
  lines of standard output, which are counted, and neither requests nor lines of the files.
- Folders for sockets and logs are made where a fresh tmpfs hides those of the image.
- The programs learn how many they are (POLICY_ENGINE_PROCESSES), and divide the container's memory.
- Signals, the end of a program among them, are seen at once, not at supervisord's next round, which may be a second away; and a program that has ended is
  started again in the same round.
- SIGHUP goes on to the programs. supervisord would start all of them anew, and refuse requests meanwhile.
- When memory is short, Linux ends a program, which comes back, rather than this process.

The events, loggers and process objects are those of supervisor 4.2 and 4.3; test/supervision holds this file against them.
"""

import json
import os
import select
import signal
import sys
import time

from supervisor import events, loggers, supervisord
from supervisor.options import ServerOptions
from supervisor.states import ProcessStates, SupervisorStates

# What poll(2) says a pipe takes fits without waiting (pipe(7): PIPE_BUF).
CHUNK = select.PIPE_BUF
# Bytes that may wait for the reader of standard output.
BUFFER = 1 << 20
# Bytes of a line that has no end yet.
LONGEST = 64 << 10
# Seconds that standard output is given at the end.
LAST = 2.0

EXIT_FATAL = 1


def message(level, text, **metadata):
    """A line in the form of the programs' own logs."""
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + ".%03dZ" % (now % 1 * 1000)
    record = {"timestamp": stamp, "level": level, "component": "supervisor", "request_id": "", "message": text, "metadata": metadata}
    return json.dumps(record).encode() + b"\n"


class Output:
    """Writes lines to a descriptor, and never waits for who reads them."""

    def __init__(self, fd):
        self.fd = fd
        self.buffer = bytearray()
        self.lost = 0
        self.poll = select.poll()
        self.poll.register(fd, select.POLLOUT)

    def line(self, line):
        if len(self.buffer) < BUFFER // 2:
            self.report()
        if self.lost or len(self.buffer) + len(line) > BUFFER:
            self.lost += 1
        else:
            self.buffer += line
        self.flush()

    def report(self):
        if self.lost:
            self.buffer += message("warn", "lines of standard output were lost: its reader was too slow; the files have them", lost=self.lost)
            self.lost = 0

    def flush(self):
        while self.buffer and self.poll.poll(0):
            try:
                del self.buffer[: os.write(self.fd, self.buffer[:CHUNK])]
            except BlockingIOError:
                return
            except OSError:  # Nobody reads, and nobody will.
                self.lost += self.buffer.count(b"\n")
                self.buffer.clear()

    def close(self):
        self.report()
        end = time.monotonic() + LAST
        while self.buffer and time.monotonic() < end:
            self.poll.poll(100)
            self.flush()


class Lines:
    """Makes lines of what programs write, so that those of two don't mix."""

    def __init__(self, output):
        self.output = output
        self.partial = {}  # by name of the program

    def data(self, event):
        name = event.process.config.name
        data = self.partial.pop(name, b"") + event.data
        *whole, rest = data.split(b"\n")
        for line in whole:
            self.output.line(line + b"\n")
        if len(rest) > LONGEST:
            self.output.line(rest + b"\n")
        elif rest:
            self.partial[name] = rest

    def exited(self, event):
        rest = self.partial.pop(event.process.config.name, b"")
        if rest:
            self.output.line(rest + b"\n")


class Handler(loggers.Handler):
    """Puts what supervisord says of itself on standard output too."""

    LEVELS = {"CRIT": "error", "ERRO": "error", "WARN": "warn", "INFO": "info"}

    def __init__(self, output):
        super().__init__()
        self.output = output

    def emit(self, record):
        level = self.LEVELS.get(loggers.LOG_LEVELS_BY_NUM[record.level])
        if level:
            self.output.line(message(level, record.asdict()["message"]))

    def flush(self):
        self.output.flush()

    def close(self):
        pass

    def reopen(self):
        pass

    def remove(self):
        pass


class Waker:
    """Ends supervisord's wait for output when a signal comes: Python goes on with poll(2) after one (PEP 475). To supervisord it is one more descriptor to read."""

    def __init__(self):
        self.fd, writing = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def readable(self):
        return True

    def writable(self):
        return False

    def handle_read_event(self):
        os.read(self.fd, CHUNK)

    def handle_error(self):
        raise


class Options(ServerOptions):
    def __init__(self, output):
        super().__init__()
        self.waker = Waker()
        self.output = output
        self.first, self.test = True, False
        self.hangup = None

    def make_logger(self):
        self.silent = True  # Its own handler for standard output waits for the reader.
        super().make_logger()
        self.logger.handlers.append(Handler(self.output))

    def get_socket_map(self):
        return {**super().get_socket_map(), self.waker.fd: self.waker}

    def get_signal(self):
        sig = super().get_signal()
        if sig == signal.SIGHUP:
            self.hangup()
            return None
        return sig

    def programs(self):
        """The engine's programs that start by themselves."""
        configs = [p for group in self.process_group_configs for p in group.process_configs]
        return [p for p in configs if p.autostart and p.name.startswith("policy-")]


class Engine(supervisord.Supervisor):
    def __init__(self, options):
        super().__init__(options)
        self.lines = Lines(options.output)
        self.status = 0
        options.hangup = self.hangup

    def runforever(self):
        events.subscribe(events.ProcessLogEvent, self.lines.data)
        events.subscribe(events.ProcessStateExitedEvent, self.lines.exited)
        events.subscribe(events.ProcessStateFatalEvent, self.fatal)
        events.subscribe(events.ProcessStateUnknownEvent, self.fatal)
        events.subscribe(events.ProcessStateRunningEvent, self.running)
        events.subscribe(events.TickEvent, lambda event: self.options.output.flush())
        self.transition()
        super().runforever()

    def transition(self):
        for group in sorted(self.process_groups.values()):
            group.transition()

    def fatal(self, event):
        self.status = EXIT_FATAL
        self.options.mood = SupervisorStates.SHUTDOWN
        self.options.logger.critical("%s can't be started any more: the container ends" % event.process.config.name)

    def running(self, event):
        try:
            with open("/proc/%d/oom_score_adj" % event.process.pid, "w") as f:
                f.write("500")
        except OSError:
            pass  # It has ended, or /proc may not be written: then Linux chooses as it does everywhere.

    def reap(self, once=False, recursionguard=0):
        super().reap(once, recursionguard)
        if recursionguard == 0:
            self.transition()

    def hangup(self):
        for group in self.process_groups.values():
            for process in group.processes.values():
                if process.config.name.startswith("policy-") and process.get_state() in (ProcessStates.STARTING, ProcessStates.RUNNING):
                    process.signal(signal.SIGHUP)


def folders():
    """Makes the folders that the programs write to. Only they may enter: whoever can reach a worker's socket can ask it."""
    run = os.environ["POLICY_ENGINE_RUN_DIR"]
    for folder in (run, os.path.join(run, "workers"), os.environ["POLICY_ENGINE_LOG_DIR"]):
        try:
            os.makedirs(folder, 0o700, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError("user %d may not write there" % os.getuid())
        except OSError as err:
            sys.exit("supervise: make folder %s: %s; mount a tmpfs or a volume there that user %d may write to" % (folder, err, os.getuid()))


def main():
    folders()
    output = Output(sys.stdout.fileno())
    options = Options(output)
    options.realize(doc=__doc__)
    os.environ.setdefault("POLICY_ENGINE_PROCESSES", str(max(1, len(options.programs()))))
    engine = Engine(options)
    try:
        engine.main()
    except supervisord.asyncore.ExitNow:
        pass
    options.close_httpservers()
    options.close_logger()
    output.close()
    sys.exit(engine.status)


if __name__ == "__main__":
    main()
