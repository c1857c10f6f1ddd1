# Published drivers in YAML, used by their own command lines in a shell.
. "$SCENARIOS/common.sh"

mkdir files
printf 'an image' >image
cat >exporter.yaml <<YAML
apiVersion: jumpstarter.dev/v1alpha1
kind: ExporterConfig
metadata:
  namespace: default
  name: published
endpoint: ""
token: ""
export:
  power:
    type: jumpstarter_driver_power.driver.MockPower
  serial:
    type: jumpstarter_driver_pyserial.driver.PySerial
    config:
      url: "loop://"
  storage:
    type: jumpstarter_driver_opendal.driver.Opendal
    config:
      scheme: fs
      kwargs: {root: $PWD/files}
  shell:
    type: jumpstarter_driver_shell.driver.Shell
    config:
      methods:
        greet: echo "hello \$1"
        fail: exit 3
  net:
    type: jumpstarter_driver_network.driver.TcpNetwork
    config: {host: 127.0.0.1, port: 7}
  board:
    children:
      power:
        type: jumpstarter_driver_power.driver.MockPower
  proxy:
    ref: board.power
YAML

echo uname >keys
# The commands are in one shell, since each start of an exporter with these drivers takes seconds.
cat >commands.sh <<'SHELL'
. "$SCENARIOS/common.sh"

j --help >help
for name in power serial storage shell net board proxy; do
    grep -q "^  $name " help || fail "no $name in: $(cat help)"
done

expect 0 j power on
expect 0 j power cycle --wait 0
j power read | grep -q 'voltage=5.0 V' || fail "no reading"
expect 0 j board power off
expect 0 j proxy on

expect 0 j storage write-from-path dst image
[ "$(cat files/dst)" = 'an image' ] || fail "the image was not written"
j storage list / | grep -qx dst || fail "the image is not listed"
expect 0 j storage exists dst
expect 1 j storage exists missing

[ "$(j shell greet you)" = 'hello you' ] || fail "no greeting"
expect 3 j shell fail
[ "$(j net address)" = 127.0.0.1:7 ] || fail "no address"

# The port gives back what it gets, and ends when all was sent.
expect 0 j serial pipe -i -o log <keys
grep -qx uname log || fail "the log has: $(cat log)"
exit 42
SHELL
expect 42 jmp shell --exporter-config exporter.yaml -- sh -eu commands.sh
