package firmwaresim

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// Profile is a kind of device: what it measures and how the measured thing behaves.
type Profile struct {
	Name string
	// Step is the physical time between two readings. It is independent of the publish rate, so that a minute of
	// thermostats at one reading a second shows an hour of heating.
	Step time.Duration
	read func(dst []Value, n noise, seq int64, t float64) []Value // t: seconds of physical time since midnight of day 0
}

// Read appends the values of reading seq of a device. The result depends on the arguments alone, for any order of calls.
func (p *Profile) Read(dst []Value, seed uint64, device int, seq int64) []Value {
	n := noise{seed: mix(seed ^ mix(uint64(device)+1))}
	start := 6*3600 + 3*3600*n.fixed(100) // the fleet wakes up between six and nine, not all in step
	return p.read(dst, n, seq, start+float64(seq)*p.Step.Seconds())
}

var profiles = []*Profile{
	{Name: "thermostat", Step: time.Minute, read: thermostat},
	{Name: "vibration", Step: time.Second, read: vibration},
	{Name: "gps-tracker", Step: 5 * time.Second, read: gpsTracker},
	{Name: "energy-meter", Step: time.Minute, read: energyMeter},
}

// ParseProfile finds a profile by name.
func ParseProfile(name string) (*Profile, error) {
	for _, p := range profiles {
		if p.Name == name {
			return p, nil
		}
	}
	return nil, fmt.Errorf("profile %q: want one of %s", name, strings.Join(ProfileNames(), ", "))
}

// ProfileNames lists the profiles.
func ProfileNames() []string {
	var names []string
	for _, p := range profiles {
		names = append(names, p.Name)
	}
	return names
}

// thermostat: a room with night setback, a hysteresis controller that works harder when it is cold outside, and a
// battery that runs down. One sensor in forty sticks for a while; any may spike.
func thermostat(dst []Value, n noise, seq int64, t float64) []Value {
	at := func(seq int64, t float64) (temp float64, heating bool) {
		hour := math.Mod(t, day) / 3600
		base := 17 + 4*(smoothstep(6, 8, hour)-smoothstep(22, 24, hour)) + 1.5*(n.fixed(1)-0.5)
		outside := 4 + 6*math.Sin(2*math.Pi*(hour-9)/24) + 3*n.slow(2, t, 6*3600)
		duty := clamp((base-outside)/28, 0.15, 0.85)
		phase := math.Mod(t/(24*60)+n.fixed(3), 1)
		saw := 1 - (phase-duty)/(1-duty)*2
		if heating = phase < duty; heating {
			saw = 2*phase/duty - 1
		}
		return base + 0.35*saw + 0.2*n.slow(4, t, 1800) + 0.03*n.gauss(5, seq), heating
	}
	if n.fixed(6) < 1.0/40 { // stuck: 60 of every 600 readings repeat the first of them
		if k := seq % 600; k >= 300 && k < 360 {
			t -= float64(k-300) * 60
			seq -= k - 300
		}
	}
	temp, heating := at(seq, t)
	if n.uniform(7, seq) < 1.0/5000 {
		temp += 15
	}
	hour := math.Mod(t, day) / 3600
	return append(dst,
		Value{Name: "temperature", Number: temp, Decimals: 2},
		Value{Name: "setpoint", Number: 17 + 4*step(hour >= 6 && hour < 22), Decimals: 1},
		Value{Name: "humidity", Number: clamp(46-1.5*(temp-20)+6*n.slow(8, t, 4*3600), 5, 99), Decimals: 1},
		Value{Name: "heating", Kind: Flag, Flag: heating},
		Value{Name: "battery", Number: clamp(3.1-float64(seq)*2e-6+0.005*n.gauss(9, seq), 2.0, 3.3), Decimals: 3},
	)
}

// vibration: a motor at about 1480 rpm. One in eight has a bearing that starts to wear after some minutes: velocity and
// crest factor grow, and the dominant frequency moves from shaft speed to the outer race's ball-pass frequency.
func vibration(dst []Value, n noise, seq int64, t float64) []Value {
	rpm := 1480 + 8*n.slow(1, t, 120) + 1.5*n.gauss(2, seq)
	wear := 0.0
	if n.fixed(3) < 1.0/8 {
		wear = clamp((float64(seq)-300-900*n.fixed(4))/1800, 0, 1)
	}
	rms := 1.1 + 0.5*n.fixed(5) + 0.12*n.slow(6, t, 60) + 7*wear*wear + (0.05+0.4*wear)*math.Abs(n.gauss(7, seq))
	crest := 3 + 2.5*wear + 0.15*n.gauss(8, seq)
	freq := rpm / 60
	if wear > 0.3 {
		freq *= 3.58
	}
	return append(dst,
		Value{Name: "rms_mm_s", Number: rms, Decimals: 3},
		Value{Name: "peak_mm_s", Number: rms * math.Max(crest, 1.5), Decimals: 3},
		Value{Name: "frequency_hz", Number: freq, Decimals: 2},
		Value{Name: "rpm", Number: rpm, Decimals: 0},
		Value{Name: "bearing_c", Number: 46 + 3*math.Sin(2*math.Pi*t/day) + 2*rms + 0.2*n.gauss(9, seq), Decimals: 1},
	)
}

// energyMeter: a household. Power is a daily curve plus a kettle; energy is its exact integral, so the register never
// runs backwards and agrees with the power between readings. Mains voltage sags under load and, rarely, for other reasons.
func energyMeter(dst []Value, n noise, seq int64, t float64) []Value {
	const kettleW, kettleOn, kettleEvery = 1900, 300, 97 * 60
	base, daily, twice := 180+240*n.fixed(1), 90+80*n.fixed(2), 40+50*n.fixed(3)
	w, p1, p2 := 2*math.Pi/day, -2+0.6*n.fixed(4), 1+0.6*n.fixed(5)
	shift := kettleEvery * n.fixed(6)
	cycles, into := math.Modf((t + shift) / kettleEvery)
	into *= kettleEvery

	power := base + daily*math.Sin(w*t+p1) + twice*math.Sin(2*w*t+p2) + kettleW*step(into < kettleOn)
	joules := base*t - daily/w*(math.Cos(w*t+p1)-math.Cos(p1)) - twice/(2*w)*(math.Cos(2*w*t+p2)-math.Cos(p2)) +
		kettleW*(cycles*kettleOn+math.Min(into, kettleOn))
	power *= 1 + 0.004*n.gauss(7, seq)
	volts := 231 + 2.5*n.slow(8, t, 1200) + 0.3*n.gauss(9, seq) - power*0.0008 - 35*step(n.uniform(10, seq) < 1.0/3000)
	factor := clamp(0.93+0.02*n.slow(11, t, 3600), 0.8, 1)
	return append(dst,
		Value{Name: "power_w", Number: power, Decimals: 1},
		Value{Name: "energy_kwh", Number: 1200 + 9000*n.fixed(12) + joules/3.6e6, Decimals: 4},
		Value{Name: "voltage_v", Number: volts, Decimals: 1},
		Value{Name: "current_a", Number: power / (volts * factor), Decimals: 3},
		Value{Name: "power_factor", Number: factor, Decimals: 3},
	)
}
