"""Temperatures, fans, voltages, the Pi's supply and the eMMC's wear."""

from pathlib import Path

import pytest

from edge_agent.host import power, storage_wear, thermal
from edge_agent.host.machine import Machine
from tests.agent.host.trees import plant, values

CHIP = "sys/class/hwmon/hwmon"
THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("45123\n", 45.123),
        ("0\n", 0.0),
        ("-40000\n", -40.0),
        ("-100000", -100.0),
        ("300000", 300.0),
        ("300001", None),
        ("-100001", None),
        ("", None),
        ("\n", None),
        ("N/A\n", None),
    ],
)
def test_temperatures_that_cannot_be_are_omitted(
    tmp_path: Path, content: str, expected: float | None
) -> None:
    """Outside -100 to 300 degrees, and files that are empty or hold no number."""
    machine = plant(tmp_path, {f"{CHIP}0/name": "lm75\n", f"{CHIP}0/temp1_input": content})
    found = values(thermal.Thermal(machine).sample(), thermal.TEMPERATURE, "hw.id")
    assert found == ({} if expected is None else {"lm75-temp1": expected})


def test_twin_chips_have_distinct_ids(tmp_path: Path) -> None:
    """By the device they sit on, which stays, and else by number."""
    machine = plant(
        tmp_path,
        {f"{CHIP}{n}/name": "lm75\n" for n in range(4)}
        | {f"{CHIP}{n}/temp1_input": f"{n}000\n" for n in range(4)}
        | {f"{CHIP}7/name": "nvme\n", f"{CHIP}7/temp1_input": "40000\n"},
    )
    for number, device in ((0, "1-0048"), (1, "1-0049"), (7, "nvme0")):
        (tmp_path / f"{CHIP}{number}/device").symlink_to(f"../../../devices/{device}")
    assert values(thermal.Thermal(machine).sample(), thermal.TEMPERATURE, "hw.id") == {
        "lm75-1-0048-temp1": 0,
        "lm75-1-0049-temp1": 1,
        "lm75-temp1": 2,
        "lm75-2-temp1": 3,
        "nvme0-temp1": 40,
    }


def test_a_label_says_where_the_sensor_is(tmp_path: Path) -> None:
    r"""hw.sensor_location only where the chip says so; `\xNN` for what is not UTF-8."""
    machine = plant(
        tmp_path,
        {
            f"{CHIP}0/name": "it87\n",
            f"{CHIP}0/fan1_input": "900\n",
            f"{CHIP}0/fan2_input": "1200\n",
            f"{CHIP}0/fan2_label": b"caf\xe9\n",
            f"{CHIP}0/fan3_input": "-1\n",
            f"{CHIP}0/fan_input": "1\n",
            f"{CHIP}0/in1_input": "3300\n",
            f"{CHIP}0/in2_input": "9999999\n",
            f"{CHIP}0/intrusion0_alarm": "0\n",
            f"{CHIP}1/temp1_input": "1000\n",
        },
    )
    readings = list(thermal.Thermal(machine).sample())
    assert [reading.attributes for reading in readings if reading.metric is thermal.FAN_SPEED] == [
        (("hw.id", "it87-fan1"), ("hw.name", "it87 fan1")),
        (
            ("hw.id", "it87-fan2"),
            ("hw.name", r"it87 caf\xe9"),
            ("hw.sensor_location", r"caf\xe9"),
        ),
    ]
    assert values(readings, thermal.VOLTAGE, "hw.id") == {"it87-in1": 3.3}
    assert not values(readings, thermal.TEMPERATURE)


def test_a_thermal_zone_that_is_a_chip_too_counts_once(tmp_path: Path) -> None:
    """The kernel shows cpu-thermal as the chip cpu_thermal as well."""
    zone = "sys/class/thermal/thermal_zone"
    machine = plant(
        tmp_path,
        {
            f"{CHIP}0/name": "cpu_thermal\n",
            f"{CHIP}0/temp1_input": "50000\n",
            f"{zone}0/type": "cpu-thermal\n",
            f"{zone}0/temp": "50000\n",
            f"{zone}1/type": "gpu-thermal\n",
            f"{zone}1/temp": "48000\n",
            f"{zone}2/temp": "48000\n",
            "sys/class/thermal/cooling_device0/type": "Processor\n",
        },
    )
    assert values(thermal.Thermal(machine).sample(), thermal.TEMPERATURE, "hw.id") == {
        "cpu_thermal-temp1": 50,
        "thermal_zone1-gpu-thermal": 48,
    }


def test_a_machine_without_sensors_has_no_readings(tmp_path: Path) -> None:
    """Absent, not zero."""
    machine = plant(tmp_path, {})
    for subject in (thermal.Thermal, power.Power, storage_wear.StorageWear):
        assert list(subject(machine).sample()) == []


def degraded(machine: Machine) -> set[object]:
    """hw.id of what is degraded; each series has exactly one state that holds."""
    status = values(power.Power(machine).sample(), power.STATUS, "hw.id", "hw.state")
    ids = {key[0] for key in status if isinstance(key, tuple)}
    assert all(status[i, "ok"] + status[i, "degraded"] == 1 for i in ids)
    return {i for i in ids if status[i, "degraded"]}


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("0", set()),
        ("1", {"undervoltage-now"}),
        ("2", {"frequency_capped-now"}),
        ("4", {"throttled-now"}),
        ("8", {"soft_temperature_limit-now"}),
        ("10000", {"undervoltage-since_boot"}),
        ("20000", {"frequency_capped-since_boot"}),
        ("40000", {"throttled-since_boot"}),
        ("80000", {"soft_temperature_limit-since_boot"}),
        (
            "50005\n",
            {
                "undervoltage-now",
                "throttled-now",
                "undervoltage-since_boot",
                "throttled-since_boot",
            },
        ),
    ],
)
def test_each_throttle_bit_is_a_status(tmp_path: Path, word: str, expected: set[str]) -> None:
    """The firmware's word, bit by bit: now, and since boot."""
    machine = plant(tmp_path, {THROTTLED: word})
    assert degraded(machine) == {f"soc:firmware-{name}" for name in expected}


@pytest.mark.parametrize(("alarm", "expected"), [("0\n", set()), ("1\n", {"rpi_volt-in0"})])
def test_the_undervoltage_alarm_is_a_status(tmp_path: Path, alarm: str, expected: set[str]) -> None:
    """The only source on kernels without the firmware's file."""
    machine = plant(tmp_path, {f"{CHIP}0/name": "rpi_volt\n", f"{CHIP}0/in0_lcrit_alarm": alarm})
    assert degraded(machine) == expected


def test_an_alarm_that_cannot_be_read_is_no_status(tmp_path: Path) -> None:
    """Neither ok nor degraded is known."""
    machine = plant(tmp_path, {f"{CHIP}0/name": "x\n", f"{CHIP}0/in0_lcrit_alarm": ""})
    assert list(power.Power(machine).sample()) == []


def test_a_throttle_word_that_is_no_number_fails_the_subject(tmp_path: Path) -> None:
    """Better a failed subject than a supply that looks fine."""
    machine = plant(tmp_path, {THROTTLED: "error\n"})
    with pytest.raises(ValueError, match="invalid literal"):
        list(power.Power(machine).sample())


@pytest.mark.parametrize(
    ("life_time", "remaining"),
    [
        ("0x01 0x01\n", 0.9),
        ("0x02 0x05\n", 0.5),
        ("0x0a 0x00\n", 0.0),
        ("0x0b 0x01\n", 0.0),
        ("0x00 0x00\n", None),
        ("0xff 0x00\n", None),
        ("", None),
    ],
)
def test_remaining_life_is_that_of_the_worse_memory(
    tmp_path: Path, life_time: str, remaining: float | None
) -> None:
    """In tenths, rounded against us; a register that says nothing is nothing."""
    machine = plant(tmp_path, {"sys/block/mmcblk1/device/life_time": life_time})
    found = values(storage_wear.StorageWear(machine).sample(), storage_wear.ENDURANCE, "hw.id")
    assert found == ({} if remaining is None else {"mmcblk1": remaining})


@pytest.mark.parametrize(
    ("register", "state"),
    [("0x01", "ok"), ("0x02", "degraded"), ("0x03", "predicted_failure"), ("0x00", None)],
)
def test_pre_eol_info_is_the_status_of_the_disk(
    tmp_path: Path, register: str, state: str | None
) -> None:
    """How many of the spare blocks are used up."""
    machine = plant(
        tmp_path,
        {
            "sys/block/mmcblk0/device/pre_eol_info": register + "\n",
            "sys/block/mmcblk0boot0/device/pre_eol_info": "0x03\n",
            "sys/block/sda/device/pre_eol_info": "0x03\n",
        },
    )
    found = values(storage_wear.StorageWear(machine).sample(), power.STATUS, "hw.state")
    states = ("ok", "degraded", "predicted_failure")
    assert found == ({each: int(each == state) for each in states} if state else {})
