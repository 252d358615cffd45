"""Models in processes of their own: a crash, a hang or the end of a model costs a process, not the daemon.

backend.py   a `Backend` that loads into processes        trial.py    what is decoded again after a process died
model.py     a `Model` that decodes in one                wire.py     what the two say to each other, as bytes
worker.py    one process, as the daemon holds it          channel.py  … over sockets
crew.py      all of them: a spare one, the count          audio.py    the samples, in memory that both see
child.py     what runs in the process
"""
