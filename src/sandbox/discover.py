# Run once, outside the sandbox, by the user's own interpreter: says what the sandbox must make visible for it.
import json, os, sys, sysconfig

libraries = os.path.join(sysconfig.get_path("platstdlib"), "lib-dynload")
for name in sorted(os.listdir(libraries)) if os.path.isdir(libraries) else []:
    try:
        if not name.startswith(("_test", "_tkinter")):
            __import__(name.split(".")[0])
    except Exception:
        pass
mapped = set()
with open("/proc/self/maps") as maps:
    for line in maps:
        path = line.rstrip("\n").partition("/")
        if path[1] and ".so" in path[2]:
            mapped.add(os.path.dirname(os.path.realpath("/" + path[2])))
print(
    json.dumps(
        {
            "executable": os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
            "version": ".".join(map(str, sys.version_info[:3])),
            "implementation": sys.implementation.name,
            "standard_library": sorted({os.path.realpath(sysconfig.get_path(k)) for k in ("stdlib", "platstdlib")}),
            "libraries": sorted(p for p in mapped if p != os.path.realpath(libraries)),
        }
    )
)
