# The scenario direct.sh with a published driver.
POWER=jumpstarter_driver_power.driver.MockPower
. "$SCENARIOS/direct.sh"
