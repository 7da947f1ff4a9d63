"""Runs a model in an application that stays responsive: python examples/cancel.py [MODEL].

One thread owns the model and fills a queue; the main thread shows what comes. An event stops both.
"""

import queue
import threading

from tiny import model_path

import edge_runtime as edge

path = model_path()
pieces: queue.Queue[str | None] = queue.Queue()
stop = threading.Event()


def write() -> None:
    try:
        with edge.load(path, context_tokens=1024) as model:
            endless = edge.Sampling(ignore_eos=True)
            for piece in model.stream("Once upon a time", sampling=endless, cancel=stop):
                pieces.put(piece)
    except edge.EdgeError as error:
        pieces.put(f"[{error}]")
    finally:
        pieces.put(None)  # whatever happens, the main thread must not wait for ever


writer = threading.Thread(target=write)
writer.start()
shown = 0
while (text := pieces.get()) is not None:
    if shown < 200:
        print(text, end="", flush=True)
        shown += len(text)
    else:
        stop.set()  # the user has closed the window
writer.join()
print(f"\nstopped after {shown} characters")
