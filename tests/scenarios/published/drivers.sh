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

in_shell() {
    jmp shell --exporter-config exporter.yaml -- "$@"
}

in_shell j --help >help
for name in power serial storage shell net board proxy; do
    grep -q "^  $name " help || fail "no $name in: $(cat help)"
done

expect 0 in_shell j power on
expect 0 in_shell j power cycle --wait 0
in_shell j power read | grep -q 'voltage=5.0 V' || fail "no reading"
expect 0 in_shell j board power off
expect 0 in_shell j proxy on

expect 0 in_shell j storage write-from-path dst image
[ "$(cat files/dst)" = 'an image' ] || fail "the image was not written"
in_shell j storage list / | grep -qx dst || fail "the image is not listed"
expect 0 in_shell j storage exists dst
expect 1 in_shell j storage exists missing

[ "$(in_shell j shell greet you)" = 'hello you' ] || fail "no greeting"
expect 3 in_shell j shell fail
[ "$(in_shell j net address)" = 127.0.0.1:7 ] || fail "no address"

# The port gives back what it gets, and ends when all was sent.
echo uname >keys
expect 0 in_shell j serial pipe -i -o log <keys
grep -qx uname log || fail "the log has: $(cat log)"
