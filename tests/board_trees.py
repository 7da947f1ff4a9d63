"""Trees of files that stand in for boards and batteries, laid out as their kernels lay them out.

Labels, files and units are those of the kernel's drivers and of NVIDIA's device trees; the numbers
are round so that a person can check the watts by hand.
"""

from __future__ import annotations

from pathlib import Path

from sensor_trees import put

I2C = "sys/bus/i2c/drivers"
SUPPLIES = "sys/class/power_supply"


def ina3221(
    root: Path,
    number: int,
    rails: dict[int, tuple[str, int, int]],
    *,
    address: str = "1-0040",
    shunt_uohm: int | None = 2000,
    update_ms: int | None = None,
) -> str:
    """Adds an INA3221: channel -> (label, millivolts, milliamperes). Returns its folder's path.

    As the driver does it adds the shunts' voltages (µV) as in4 to in6 and their sums as in7 and
    curr4; in7 has a label too.
    """
    folder = f"{I2C}/ina3221/{address}/hwmon/hwmon{number}"
    put(root, f"{folder}/name", "ina3221")
    for channel, (label, millivolts, milliamps) in rails.items():
        put(root, f"{folder}/in{channel}_label", label)
        put(root, f"{folder}/in{channel}_input", millivolts)
        put(root, f"{folder}/curr{channel}_input", milliamps)
        put(root, f"{folder}/in{channel + 3}_input", milliamps * (shunt_uohm or 5000) // 1000)
        if shunt_uohm is not None:
            put(root, f"{folder}/shunt{channel}_resistor", shunt_uohm)
    total_ma = sum(milliamps for _, _, milliamps in rails.values())
    put(root, f"{folder}/in7_label", "sum of shunt voltages")
    put(root, f"{folder}/in7_input", total_ma * 2)
    put(root, f"{folder}/curr7_input", total_ma)
    put(root, f"{folder}/curr4_input", total_ma)
    if update_ms is not None:
        put(root, f"{folder}/update_interval", update_ms)
    return folder


def orin_nano(root: Path) -> Path:
    """One chip whose VDD_IN is the module's input: 5 V x 1.2 A = 6 W."""
    put(root, "proc/device-tree/model", "NVIDIA Jetson Orin Nano Developer Kit\0")
    rails = {
        1: ("VDD_IN", 5000, 1200),
        2: ("VDD_CPU_GPU_CV", 5000, 400),
        3: ("VDD_SOC", 5000, 300),
    }
    ina3221(root, 1, rails, shunt_uohm=5000, update_ms=20)
    return root


def agx_orin(root: Path) -> Path:
    """Two chips and no total: 10 W + 4 W + 5 W, and 1.5 W of memory inside the last of them."""
    put(root, "proc/device-tree/model", "NVIDIA Jetson AGX Orin Developer Kit\0")
    first = {
        1: ("VDD_GPU_SOC", 20000, 500),
        2: ("VDD_CPU_CV", 20000, 200),
        3: ("VIN_SYS_5V0", 5000, 1000),
    }
    second = {1: ("NC", 0, 0), 2: ("VDDQ_VDD2_1V8AO", 5000, 300), 3: ("NC", 0, 0)}
    ina3221(root, 3, first)
    ina3221(root, 4, second, address="1-0041")
    return root


def jetson_nano_l4t(root: Path) -> str:
    """A Jetson Nano by NVIDIA's own older kernel: milliwatts, channels from 0. 4.5 W in all."""
    folder = f"{I2C}/ina3221x/6-0040/iio:device0"
    rails = (("POM_5V_IN", 4500), ("POM_5V_GPU", 900), ("POM_5V_CPU", 1100))
    for channel, (label, milliwatts) in enumerate(rails):
        put(root, f"{folder}/rail_name_{channel}", label)
        put(root, f"{folder}/in_power{channel}_input", milliwatts)
        put(root, f"{folder}/in_voltage{channel}_input", 5000)
        put(root, f"{folder}/in_current{channel}_input", milliwatts // 5)
    return folder


def thor(root: Path) -> str:
    """A Thor kit: an INA238 at the carrier's input, 42 W, and rails of the module."""
    put(root, "proc/device-tree/model", "NVIDIA Jetson AGX Thor Developer Kit\0")
    ina3221(root, 1, {1: ("VDD_GPU", 12000, 1000), 2: ("VDD_CPU_SOC_MSS", 12000, 500)})
    folder = f"{I2C}/ina238/2-0044/hwmon/hwmon2"
    put(root, f"{folder}/name", "ina238")
    put(root, f"{folder}/in0_input", 5)
    put(root, f"{folder}/in1_input", 20000)
    put(root, f"{folder}/curr1_input", 2100)
    put(root, f"{folder}/power1_input", 42_000_000)
    return folder


def supply(root: Path, name: str, **files: object) -> str:
    """Adds a power supply with some files. Returns its folder's path."""
    for file, content in files.items():
        put(root, f"{SUPPLIES}/{name}/{file}", content)
    return f"{SUPPLIES}/{name}"


def energy_battery(root: Path, name: str = "BAT0", **changed: object) -> str:
    """A laptop's battery that tells energy: 48 of 57 Wh, 30 Wh left, giving 12 W."""
    files: dict[str, object] = {
        "type": "Battery",
        "present": 1,
        "status": "Discharging",
        "energy_full_design": 57_000_000,
        "energy_full": 48_000_000,
        "energy_now": 30_000_000,
        "power_now": 12_000_000,
        "voltage_now": 11_800_000,
        "voltage_min_design": 11_400_000,
    }
    files.update(changed)
    return supply(root, name, **{k: v for k, v in files.items() if v is not None})


def charge_battery(root: Path, name: str = "BAT0", **changed: object) -> str:
    """A battery that tells charge and current: 4 of 5 Ah at 12 V nominal, giving 1 A at 11 V."""
    files: dict[str, object] = {
        "type": "Battery",
        "present": 1,
        "status": "Discharging",
        "charge_full_design": 5_000_000,
        "charge_full": 4_000_000,
        "charge_now": 2_500_000,
        "current_now": 1_000_000,
        "voltage_now": 11_000_000,
        "voltage_min_design": 12_000_000,
    }
    files.update(changed)
    return supply(root, name, **{k: v for k, v in files.items() if v is not None})


def laptop_on_battery(root: Path) -> Path:
    """A battery that feeds, a charger that does not, a USB-C negotiation and a mouse."""
    energy_battery(root)
    supply(root, "AC", type="Mains", online=0)
    supply(root, "ucsi-source-psy-USBC000:001", type="USB", online=1, current_now=2_250_000)
    supply(
        root, "hidpp_battery_0", type="Battery", scope="Device", status="Discharging", capacity=55,
        voltage_now=3_900_000, current_now=10_000, charge_full=500_000,
    )  # fmt: skip
    return root


PI5 = "Raspberry Pi 5 Model B Rev 1.0\0"
PI4 = "Raspberry Pi 4 Model B Rev 1.4\0"

_PI_RAILS = (("3V3_SYS", 0.5, 3.3), ("DDR_VDD2", 0.25, 1.1), ("VDD_CORE", 2.0, 0.9))
PI_W = 0.5 * 3.3 + 0.25 * 1.1 + 2.0 * 0.9
"""What the two prints below have in watts: 3.725."""


def pmic_print() -> str:
    """As `vcgencmd pmic_read_adc` prints: right-aligned names and the number of the channel."""
    amps = [f"{r + '_A':>12} current({n})={a:.8f}A" for n, (r, a, _) in enumerate(_PI_RAILS)]
    volts = [f"{r + '_V':>12} volt({n})={v:.8f}V" for n, (r, _, v) in enumerate(_PI_RAILS, 8)]
    inputs = ["     EXT5V_V volt(24)=5.09066000V", "      BATT_V volt(25)=0.00000000V"]
    return "\n".join([*amps, *volts, *inputs]) + "\n"


def pmic_short_print() -> str:
    """The other format, without channels."""
    amps = [f"{r}_A={a:.4f}A" for r, a, _ in _PI_RAILS]
    volts = [f"{r}_V={v:.4f}V" for r, _, v in _PI_RAILS]
    return "\n".join(["EXT5V_V=5.0588V", *amps, *volts]) + "\n"
