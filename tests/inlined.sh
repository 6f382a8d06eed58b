#!/usr/bin/env bash
# No vector instruction of ours is a call: what runs inside a level must be inlined into its trampoline, and a closure that the
# compiler keeps as a function loses the level's instructions, each of which is then a function of its own (seen: 16 adapters
# cost 27 % where they cost 7). Looks at the release binary. Not here: whether they are the right instructions.
set -euo pipefail
binary=${1:-target/release/sorank}
if [ "$(uname -m)" != x86_64 ] || ! command -v objdump >/dev/null; then
    echo "skipped: objdump and an x86-64 binary are needed"
    exit 0
fi
objdump -d --no-show-raw-insn "$binary" | awk '
    /^[0-9a-f]+ <.*>:$/ { inside = $2 }
    /(call|jmp) .*core_arch.*_mm/ && inside ~ /sorank/ && inside !~ /core_arch/ { calls[inside]++; bad = 1 }
    { lines++ }
    END {
        for (f in calls) print calls[f] " intrinsics are calls in " f
        if (lines < 1000) { print "nothing was disassembled"; exit 1 }
        if (!bad) print "every intrinsic is inlined"
        exit bad
    }'
