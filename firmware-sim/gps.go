package firmwaresim

import "math"

const (
	routeStops  = 8
	driveS      = 1200.0 // drives for 20 minutes,
	standS      = 300.0  // then stands for 5
	metresPerLa = 111_320.0
)

// gpsTracker: a van that drives a fixed round of eight stops around its depot at its own cruising speed and stands
// still in between. The odometer is exact; the fix has a few metres of noise, and in tunnels (about 1 % of the time, for
// half a minute) few satellites and a bad position.
func gpsTracker(dst []Value, n noise, seq int64, t float64) []Value {
	cruise := (34 + 30*n.fixed(1)) / 3.6 // m/s
	rounds, into := math.Modf(t / (driveS + standS))
	into *= driveS + standS
	moving := into < driveS
	metres := cruise * (rounds*driveS + math.Min(into, driveS))

	x, y, heading := route(n, metres)
	speed := 0.0
	if moving {
		speed = cruise*3.6 + 1.2*n.gauss(2, seq)
	}
	sats, hdop, spread := 9+int(4*n.uniform(3, seq)), 0.8+0.3*n.uniform(4, seq), 2.5
	if n.uniform(5, int64(t/30)) < 0.01 {
		sats, hdop, spread = int(4*n.uniform(3, seq)), 12+10*n.uniform(4, seq), 80
	}
	x += spread * n.gauss(6, seq)
	y += spread * n.gauss(7, seq)
	lat := 50.2 + 1.2*n.fixed(8) + y/metresPerLa
	lon := 7.0 + 2.5*n.fixed(9) + x/(metresPerLa*math.Cos(lat*math.Pi/180))
	return append(dst,
		Value{Name: "lat", Number: lat, Decimals: 6},
		Value{Name: "lon", Number: lon, Decimals: 6},
		Value{Name: "speed_kmh", Number: math.Max(speed, 0), Decimals: 1},
		Value{Name: "heading", Number: heading, Decimals: 0},
		Value{Name: "odometer_km", Number: 20000 + 90000*n.fixed(10) + metres/1000, Decimals: 3},
		Value{Name: "sats", Number: float64(sats), Decimals: 0},
		Value{Name: "hdop", Number: hdop, Decimals: 1},
	)
}

// route is where the van is after metres on its closed round, in metres east and north of the depot, and its heading.
func route(n noise, metres float64) (x, y, heading float64) {
	var px, py, leg [routeStops]float64
	for i := range routeStops {
		angle := 2 * math.Pi * (float64(i) + 0.6*n.uniform(20, int64(i))) / routeStops
		radius := 1500 + 4000*n.uniform(21, int64(i))
		px[i], py[i] = radius*math.Cos(angle), radius*math.Sin(angle)
	}
	total := 0.0
	for i := range routeStops {
		j := (i + 1) % routeStops
		leg[i] = math.Hypot(px[j]-px[i], py[j]-py[i])
		total += leg[i]
	}
	left := math.Mod(metres, total)
	i := 0
	for i < routeStops-1 && left > leg[i] {
		left -= leg[i]
		i++
	}
	j := (i + 1) % routeStops
	f := left / leg[i]
	heading = math.Floor(math.Mod(math.Atan2(px[j]-px[i], py[j]-py[i])*180/math.Pi+360, 360))
	return px[i] + f*(px[j]-px[i]), py[i] + f*(py[j]-py[i]), heading
}
