# pytest in a shell: its tests use the shell's exporter, and its exit code is the shell's.
. "$SCENARIOS/common.sh"

cat >exporter.yaml <<YAML
metadata:
  name: bench
export:
  power: {type: MockPower}
YAML
cat >test_power.py <<PYTHON
import pytest


def test_power(device):
    device.power.on()
    assert next(device.power.read(60)).voltage == 12.0


@pytest.mark.parametrize("code", [0])
def test_code(device, code):
    assert code == 0, "wanted"
PYTHON
expect 0 jmp shell --exporter-config exporter.yaml -- pytest -q test_power.py
sed -i 's/\[0\]/[1]/' test_power.py
expect 1 jmp shell --exporter-config exporter.yaml -- pytest -q test_power.py
