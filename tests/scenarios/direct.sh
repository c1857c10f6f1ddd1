# An exporter that listens on a port, with a passphrase, in cleartext and with TLS.
. "$SCENARIOS/common.sh"

cat >exporter.yaml <<YAML
metadata:
  name: direct
export:
  power: {type: ${POWER:-jumpstarter.drivers.power.MockPower}}
YAML
SECRET=correct-horse-battery

serve --exporter-config exporter.yaml \
    --tls-grpc-listener 127.0.0.1:0 --tls-grpc-insecure --passphrase "$SECRET"
PORT=${ADDRESS#tcp://}
expect 0 jmp shell --tls-grpc "$PORT" --tls-grpc-insecure --passphrase "$SECRET" -- j power on
expect 1 jmp shell --tls-grpc "$PORT" --tls-grpc-insecure --passphrase wrong -- j power on
expect 1 jmp shell --tls-grpc "$PORT" --tls-grpc-insecure -- j power on
(
    export JUMPSTARTER_HOST="$PORT" JMP_GRPC_INSECURE=1 JMP_GRPC_PASSPHRASE="$SECRET"
    expect 0 j power off
)
stop

openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 \
    -subj /CN=localhost -addext subjectAltName=DNS:localhost 2>openssl.err
serve --exporter-config exporter.yaml --tls-grpc-listener localhost:0 \
    --tls-cert cert.pem --tls-key key.pem --passphrase "$SECRET"
PORT=localhost:${ADDRESS##*:}
expect 0 jmp shell --tls-grpc "$PORT" --tls-ca cert.pem --passphrase "$SECRET" -- j power on
expect 1 jmp shell --tls-grpc "$PORT" --passphrase "$SECRET" -- j power on
stop
