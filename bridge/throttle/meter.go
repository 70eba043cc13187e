package throttle

import "time"

const (
	// Window is how much of a limit may be taken at once, in time: Apache Kafka's ten whole samples of a second.
	Window = 10 * time.Second
	// MaxWait bounds every wait. Kafka's brokers close connections that are idle for as long.
	MaxWait = 10 * time.Minute
)

// Meter is what one client has taken and has not been given time for yet. It drains by the limit; the zero Meter is empty. The limit, per second, may be another
// each time.
type Meter struct {
	taken float64
	at    time.Duration
}

func (m *Meter) drain(now time.Duration, limit float64) {
	if now > m.at {
		m.taken = max(0, m.taken-limit*(now-m.at).Seconds())
		m.at = now
	}
}

// Take counts n, and says how long the client is to keep still from now on.
func (m *Meter) Take(now time.Duration, limit, n float64) (wait time.Duration) {
	m.drain(now, limit)
	m.taken = min(m.taken+n, limit*(Window+MaxWait).Seconds()) // T2
	return m.over(limit)
}

// Wait says how long the client is to keep still, if nothing more is taken.
func (m *Meter) Wait(now time.Duration, limit float64) time.Duration {
	m.drain(now, limit)
	return m.over(limit)
}

func (m *Meter) over(limit float64) time.Duration {
	seconds := m.taken/limit - Window.Seconds()
	return time.Duration(min(max(seconds, 0), MaxWait.Seconds()) * float64(time.Second))
}

// empty says whether the meter is like a new one.
func (m *Meter) empty(now time.Duration, limit float64) bool {
	m.drain(now, limit)
	return m.taken == 0
}
