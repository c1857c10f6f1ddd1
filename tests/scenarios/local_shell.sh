# An exporter in YAML, used from a shell that serves it: by file and by name.
. "$SCENARIOS/common.sh"

mkdir -p config/jumpstarter/exporters
cat >config/jumpstarter/exporters/bench.yaml <<YAML
apiVersion: jumpstarter.dev/v1alpha1
kind: ExporterConfig
metadata:
  name: bench
  labels: {board: imx8}
export:
  power:
    type: MockPower
    description: the supply of the board
  rails:
    children:
      main:
        type: jumpstarter.drivers.power.MockPower
  again:
    ref: rails.main
YAML
export XDG_CONFIG_HOME=$PWD/config
FILE=config/jumpstarter/exporters/bench.yaml

expect 0 jmp shell --exporter-config "$FILE" -- j power on
expect 0 jmp shell --exporter bench -- j rails main off
expect 0 jmp shell --exporter bench -- sh -c 'j again on && test "$JMP_EXPORTER_LABELS" = board=imx8'
jmp shell --exporter bench -- j --help | grep -q 'power .*the supply of the board' || fail "no help"

expect 42 jmp shell --exporter bench -- sh -c 'exit 42'
expect 137 jmp shell --exporter bench -- sh -c 'kill -KILL $$'
expect 127 jmp shell --exporter bench -- no-such-command
expect 1 jmp shell --exporter bench -- j power explode
expect 1 jmp shell --exporter unknown -- true
expect 1 j power on

# Several commands in one shell use the same drivers.
jmp shell --exporter bench -- sh -c 'j power on; j power read 0.1 | head -n 1' >reading
grep -q '"voltage": 12.0' reading || fail "the power is off: $(cat reading)"

# A shell reads commands from a pipe too.
printf 'j power on && echo "on: $JMP_EXPORTER"\nexit 3\n' | expect 3 jmp shell --exporter bench >out
grep -qx 'on: bench' out || fail "no output of the script: $(cat out)"
