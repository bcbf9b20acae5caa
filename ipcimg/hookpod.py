"""What `ipcimg hook` does for a container of a pod: `ipcimg pod` has dumped the namespace, and restores it.

While the pod is being dumped (see podnote.py) criu's images of each container are detached. When a detached container
is restored, what it was detached from has to be there.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .errors import NamespaceError
from .hook import Step

if TYPE_CHECKING:
    from .hook import Call
    from .hooklog import Log


def being_dumped(call: Call) -> Step | None:
    """At post-dump: what to do where the pod of the tasks is being dumped; None where it is not."""
    from . import podnote

    with call.namespace() as namespace:
        inode, task = namespace.inode, call.task
    if task is None:
        raise AssertionError("no task has a namespace")
    with podnote.found(inode, podnote.DUMP) as note:
        if note is None:
            return None
        images = note.images

    def act(log: Log) -> None:
        from .detach import detach, pod, undo

        with podnote.found(inode, podnote.DUMP) as note:
            if note is None or note.images != images:
                raise NamespaceError(f"the dump of the pod in {images} has ended")
            new_one = detach(call.directory, pod(images))
            note.add(task, call.directory)
            if note.is_withdrawn:
                undo(call.directory)
                raise NamespaceError(f"the dump of the pod in {images} has ended")
        log.say(f"CRIU's images are detached from {images}{'' if new_one else ' already'}, where their pod is dumped")

    return Step(f"detach CRIU's images in {call.directory} from {images}, where their pod is being dumped", act)


def being_restored(call: Call) -> Step | None:
    """At post-setup-namespaces: see that the pod of a detached container is there; None for any other directory."""
    from . import criudump
    from .detach import detached_from
    from .directory import ImageDirectory
    from .images import DETACHED
    from .outline import Outline, absent, outline, outlines

    digest = detached_from(call.directory)
    if digest is None:
        return None
    path = os.path.join(call.directory, DETACHED)
    originals = ImageDirectory(path, wary=True)
    wanted = {outline(kind, one) for kind, one in criudump.objects(originals, originals.the_set(None))}

    def act(log: Log) -> None:
        from . import namespace, podnote
        from .detach import pod_digest

        with call.namespace() as target:

            def present() -> set[Outline]:
                target.enter()
                return outlines()

            missing = absent(wanted, namespace.aside(present))
            with podnote.found(target.inode, podnote.RESTORE) as note:
                if note is not None and pod_digest(note.images) != digest:
                    raise NamespaceError(
                        f"{call.directory} is detached from another set than that of {note.images}, whose objects are "
                        "there"
                    )
        if missing:
            raise NamespaceError(
                f"{missing}: of the pod, and not there; `ipcimg pod restore` comes before its containers"
            )
        log.say(f"the {len(wanted)} objects of the pod, from which CRIU's images are detached, are there")

    return Step(f"see that the {len(wanted)} objects of the pod are in the IPC namespace of process {call.task}", act)
