"""Processes that do what another process tells them, a line of JSON at a time.

Two frameworks in one process would share libraries, threads and the GPU's memory; two
processes that wait for each other can still be measured in turns.
"""

import json
import os
import subprocess
import sys
import traceback


class WorkerError(RuntimeError):
    """What went wrong in a worker; its traceback is on its standard error."""


class Worker:
    """A Python script that calls `serve`; calling the object calls its functions.

    Args:
        script: path.
        **environment: more environment variables.
    """

    def __init__(self, script, **environment):
        self._process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )

    def __call__(self, function, **arguments):
        """Returns what a function of the worker returns.

        Raises:
            WorkerError: It failed, or the worker has ended.
        """
        try:
            print(
                json.dumps([function, arguments]), file=self._process.stdin, flush=True
            )
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"the worker ended ({self._process.wait()})")
        answer, error = json.loads(line)
        if error:
            raise WorkerError(error)
        return answer

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.communicate()


def serve(**functions):
    """Answers a `Worker` until it closes the line.

    Args:
        **functions: by name; arguments and results are what JSON knows.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What libraries print is no answer.
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            answer = [functions[name](**arguments), None]
        except Exception as error:
            traceback.print_exc()
            first = str(error).strip().split("\n")[0]
            answer = [None, f"{type(error).__name__}: {first[:200]}"]
        print(json.dumps(answer), file=answers, flush=True)
