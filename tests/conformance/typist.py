"""Types commands of stock clients as they come, a JSON object a line, and tells how each ended.

    {"words": ["openstack", "image", "list"], "environment": {...}, "region": "us-east-1"}
    {"code": 0, "out": "...", "err": "..."}

Each command runs in a process of its own, forked from this one, which has loaded the clients once: what starts is the
function that the program on the disk would call, and what takes most of its time is done already. `sdk EXPRESSION` is
an expression over an openstacksdk connection, `cloud`, printed as JSON. `curl` is run as it is.
"""

import importlib
import importlib.metadata
import json
import os
import sys
import tempfile
import traceback
import types

# What the commands load when they run.
LOADED_ONCE = [
    "glanceclient.shell",
    "glanceclient.v2.client",
    "glanceclient.v2.shell",
    "openstack.image.v2._proxy",
    "openstackclient.identity.client",
    "openstackclient.image.client",
    "openstackclient.image.v2.image",
    "openstackclient.image.v2.task",
    "openstackclient.shell",
]


def plain(value):
    if hasattr(value, "to_dict"):
        return value.to_dict(computed=False)
    if isinstance(value, types.GeneratorType):
        return list(value)
    return str(value)


def sdk(region, expression):
    import openstack

    cloud = openstack.connect(region_name=region)
    print(json.dumps(eval(expression, {"cloud": cloud}), default=plain))


def run(words, region):
    """The program's exit code."""
    program, *arguments = words
    sys.argv = words
    try:
        if program == "sdk":
            return sdk(region, *arguments) or 0
        if program == "curl":
            os.execvp(program, words)
        (entry,) = importlib.metadata.entry_points(group="console_scripts", name=program)
        return entry.load()() or 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1


def child(command, out, err):
    os.environ.clear()
    os.environ.update(command["environment"])
    os.chdir(command["environment"]["HOME"])
    # A terminal: clients take anything else at their standard input for the bytes of an image.
    _, terminal = os.openpty()
    for old, new in ((terminal, 0), (out.fileno(), 1), (err.fileno(), 2)):
        os.dup2(old, new)
    sys.stdin = open(0, closefd=False)
    code = run(command["words"], command["region"])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF)


def typed(command):
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = os.fork()
        if process == 0:
            child(command, out, err)
        _, status = os.waitpid(process, 0)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
        return {"code": os.waitstatus_to_exitcode(status), "out": texts[0], "err": texts[1]}


for module in LOADED_ONCE:
    importlib.import_module(module)
for line in sys.stdin:
    print(json.dumps(typed(json.loads(line))), flush=True)
