package firmwaresim

import (
	"encoding/json"
	"math"
	"reflect"
	"testing"

	"github.com/fxamacker/cbor/v2"
)

// plausible holds what a person who knows the device would call possible, faults included.
var plausible = map[string]map[string][2]float64{
	"thermostat":   {"temperature": {12, 40}, "setpoint": {17, 21}, "humidity": {5, 99}, "battery": {2, 3.3}},
	"vibration":    {"rms_mm_s": {0.3, 14}, "peak_mm_s": {0.5, 90}, "frequency_hz": {20, 95}, "rpm": {1440, 1520}, "bearing_c": {40, 90}},
	"gps-tracker":  {"lat": {50, 52}, "lon": {6, 10}, "speed_kmh": {0, 75}, "heading": {0, 359}, "odometer_km": {20000, 112000}, "sats": {0, 12}, "hdop": {0.5, 23}},
	"energy-meter": {"power_w": {20, 2700}, "energy_kwh": {1000, 11000}, "voltage_v": {180, 245}, "current_a": {0, 15}, "power_factor": {0.8, 1}},
}

func TestReadingsArePlausible(t *testing.T) {
	for _, name := range ProfileNames() {
		p, err := ParseProfile(name)
		if err != nil {
			t.Fatal(err)
		}
		for device := range 24 {
			for seq := int64(0); seq < 3000; seq++ {
				for _, v := range p.Read(nil, 7, device, seq) {
					if v.Kind != Number {
						continue
					}
					want, ok := plausible[name][v.Name]
					if !ok {
						t.Fatalf("%s has the unknown field %s", name, v.Name)
					}
					if !(v.Number >= want[0] && v.Number <= want[1]) {
						t.Fatalf("%s device %d reading %d: %s = %v, want %v", name, device, seq, v.Name, v.Number, want)
					}
				}
			}
		}
	}
}

func TestReadingsDependOnSeedDeviceAndSeqOnly(t *testing.T) {
	for _, p := range profiles {
		a := p.Read(nil, 1, 3, 500)
		p.Read(nil, 1, 9, 2) // other reads in between leave no trace
		if b := p.Read(nil, 1, 3, 500); !reflect.DeepEqual(a, b) {
			t.Errorf("%s: %v then %v", p.Name, a, b)
		}
		for what, b := range map[string][]Value{"seed": p.Read(nil, 2, 3, 500), "device": p.Read(nil, 1, 4, 500), "seq": p.Read(nil, 1, 3, 501)} {
			if reflect.DeepEqual(a, b) {
				t.Errorf("%s: another %s changes nothing", p.Name, what)
			}
		}
	}
}

// The register must agree with the power that the same device reported, or a consumer's sums would not add up.
func TestEnergyIsTheIntegralOfPower(t *testing.T) {
	p, _ := ParseProfile("energy-meter")
	value := func(seq int64, name string) float64 { return field(t, p.Read(nil, 1, 5, seq), name) }
	last, sum := value(0, "energy_kwh"), 0.0
	for seq := int64(1); seq <= 1440; seq++ {
		e := value(seq, "energy_kwh")
		if e < last {
			t.Fatalf("reading %d: the register ran back from %v to %v", seq, last, e)
		}
		last = e
		sum += value(seq, "power_w") / 60 / 1000
	}
	if day := last - value(0, "energy_kwh"); math.Abs(day-sum) > 0.02*sum {
		t.Errorf("a day's register rose by %.3f kWh, its power sums to %.3f kWh", day, sum)
	}
}

func TestOdometerFollowsThePosition(t *testing.T) {
	p, _ := ParseProfile("gps-tracker")
	for seq := int64(1); seq < 2000; seq++ {
		a, b := p.Read(nil, 1, 2, seq-1), p.Read(nil, 1, 2, seq)
		driven := (field(t, b, "odometer_km") - field(t, a, "odometer_km")) * 1000
		if driven < 0 || driven > 5*65/3.6+1 {
			t.Fatalf("reading %d: drove %v m in 5 s", seq, driven)
		}
		if field(t, a, "hdop") > 5 || field(t, b, "hdop") > 5 {
			continue // no fix in the tunnel
		}
		north := (field(t, b, "lat") - field(t, a, "lat")) * metresPerLa
		east := (field(t, b, "lon") - field(t, a, "lon")) * metresPerLa * math.Cos(field(t, a, "lat")*math.Pi/180)
		if moved := math.Hypot(north, east); moved > driven+25 {
			t.Fatalf("reading %d: moved %.0f m but the odometer says %.0f m", seq, moved, driven)
		}
	}
}

func field(t *testing.T, vs []Value, name string) float64 {
	t.Helper()
	for _, v := range vs {
		if v.Name == name {
			return v.Number
		}
	}
	t.Fatalf("no field %s", name)
	return 0
}

// Both encodings are read back by a decoder that is not ours and must say the same.
func TestPayloadEncodings(t *testing.T) {
	for _, p := range profiles {
		for _, seq := range []int64{0, 23, 24, 255, 256, 65536, 1 << 33} {
			vs := append(p.Read(nil, 1, 0, seq), Value{Name: "note", Kind: Text, Text: "ok"}, Value{Name: "below", Number: -300})
			var j, c map[string]any
			if err := json.Unmarshal(AppendPayload(nil, JSON, seq, 1700000000123, vs), &j); err != nil {
				t.Fatal(err)
			}
			if err := cbor.Unmarshal(AppendPayload(nil, CBOR, seq, 1700000000123, vs), &c); err != nil {
				t.Fatal(err)
			}
			if len(j) != len(vs)+2 || len(c) != len(j) {
				t.Fatalf("%s: %d and %d fields, want %d", p.Name, len(j), len(c), len(vs)+2)
			}
			if c["seq"] != uint64(seq) || j["seq"] != float64(seq) || c["ts"] != uint64(1700000000123) {
				t.Fatalf("%s: seq %v %v ts %v", p.Name, j["seq"], c["seq"], c["ts"])
			}
			for name, v := range j {
				if got, want := toFloat(c[name]), toFloat(v); got != want {
					t.Errorf("%s: %s is %v in CBOR and %v in JSON", p.Name, name, c[name], v)
				}
			}
		}
	}
}

func toFloat(v any) any {
	switch n := v.(type) {
	case uint64:
		return float64(n)
	case int64:
		return float64(n)
	}
	return v
}

func TestReadingCostsNoAllocation(t *testing.T) {
	buf, vs := make([]byte, 0, 512), make([]Value, 0, 16)
	for _, p := range profiles {
		n := testing.AllocsPerRun(100, func() {
			vs = p.Read(vs[:0], 1, 1, 77)
			buf = AppendPayload(buf[:0], CBOR, 77, 1, vs)
			buf = AppendPayload(buf[:0], JSON, 77, 1, vs)
		})
		if n != 0 {
			t.Errorf("%s: %v allocations", p.Name, n)
		}
	}
}

func BenchmarkReading(b *testing.B) {
	buf, vs := make([]byte, 0, 512), make([]Value, 0, 16)
	for _, p := range profiles {
		b.Run(p.Name, func(b *testing.B) {
			b.ReportAllocs()
			for i := range b.N {
				vs = p.Read(vs[:0], 1, i, int64(i))
				buf = AppendPayload(buf[:0], JSON, int64(i), 1, vs)
			}
		})
	}
}
