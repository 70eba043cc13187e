package firmwaresim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/eclipse/paho.golang/paho"
	"github.com/fxamacker/cbor/v2"
)

// command is what a device accepts on devices/<client id>/commands, as a JSON or CBOR map.
//
//	ping            answers
//	status          answers with the device's figures
//	rate            sets the publish rate to "rate" ("2/s"); the answer holds the old one
//	reboot          answers, then loses power
type command struct {
	Cmd  string `json:"cmd"`
	ID   string `json:"id,omitempty"`
	Rate string `json:"rate,omitempty"`
}

// reply is the answer, in the encoding of the device, on the command's response topic (with its correlation data) or
// on devices/<client id>/responses.
type reply struct {
	Cmd   string `json:"cmd"`
	ID    string `json:"id,omitempty"`
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`

	Seq     *int64 `json:"seq,omitempty"`
	Acked   *int64 `json:"acked,omitempty"`
	Pending *int64 `json:"pending,omitempty"`
	Rate    string `json:"rate,omitempty"`
}

// order is a received command with the way back.
type order struct {
	topic       string
	correlation []byte
	payload     []byte
}

func parseCommand(b []byte) (command, error) {
	var c command
	var err error
	if t := bytes.TrimSpace(b); len(t) > 0 && t[0] == '{' {
		err = json.Unmarshal(t, &c)
	} else {
		err = cbor.Unmarshal(b, &c)
	}
	if err != nil {
		return c, fmt.Errorf("command is neither a JSON nor a CBOR map: %w", err)
	}
	return c, nil
}

// obey runs in the device's goroutine. reboot is true if the device is to lose power after answering.
func (d *device) obey(o order) (answer *paho.Publish, reboot bool) {
	c, err := parseCommand(o.payload)
	r := reply{Cmd: c.Cmd, ID: c.ID, OK: true}
	switch {
	case err != nil:
	case c.Cmd == "ping":
	case c.Cmd == "reboot":
		reboot = true
	case c.Cmd == "status":
		d.mu.Lock()
		seq, acked, pending := d.led.LastSeq, d.led.Acked, int64(d.out.len())
		d.mu.Unlock()
		r.Seq, r.Acked, r.Pending, r.Rate = &seq, &acked, &pending, FormatRate(d.every)
	case c.Cmd == "rate" && d.fleet.cfg.Replay != nil:
		err = fmt.Errorf("a recording sets its own pace")
	case c.Cmd == "rate":
		var every time.Duration
		if every, err = ParseRate(c.Rate); err == nil {
			r.Rate = FormatRate(d.every)
			d.every = every
			d.due = time.Now().Add(every)
		}
	default:
		err = fmt.Errorf("command %q: want ping, status, rate or reboot", c.Cmd)
	}
	if err != nil {
		r.OK, r.Error = false, err.Error()
	}
	payload, err := d.encodeReply(r)
	if err != nil {
		panic("BUG: reply does not encode: " + err.Error())
	}
	answer = &paho.Publish{QoS: 1, Topic: o.topic, Payload: payload, Properties: &paho.PublishProperties{
		ContentType: d.fleet.cfg.Format.ContentType(), CorrelationData: o.correlation,
	}}
	return answer, reboot
}

func (d *device) encodeReply(r reply) ([]byte, error) {
	if d.fleet.cfg.Format == CBOR {
		return cbor.Marshal(r) // cbor reads json tags
	}
	return json.Marshal(r)
}

// ParseRate reads readings per time, as "10/s", "30/m", "0.5/s", "2/h", and returns the time between two readings.
func ParseRate(s string) (time.Duration, error) {
	count, unit, ok := strings.Cut(s, "/")
	per := map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour}[unit]
	n, err := strconv.ParseFloat(count, 64)
	if !ok || per == 0 || err != nil || !(n > 0) || math.IsInf(n, 0) {
		return 0, fmt.Errorf("rate %q: want readings per second, minute or hour, as in 10/s, 30/m or 2/h", s)
	}
	every := time.Duration(float64(per) / n)
	if every < time.Microsecond || every > 1000*time.Hour {
		return 0, fmt.Errorf("rate %q: want between one in 1000 hours and 1000000/s", s)
	}
	return every, nil
}

// FormatRate writes the rate that ParseRate reads.
func FormatRate(every time.Duration) string {
	for _, u := range []struct {
		per  time.Duration
		name string
	}{{time.Second, "s"}, {time.Minute, "m"}, {time.Hour, "h"}} {
		if every <= u.per || u.per == time.Hour {
			return strconv.FormatFloat(float64(u.per)/float64(every), 'g', 6, 64) + "/" + u.name
		}
	}
	panic("unreachable")
}
