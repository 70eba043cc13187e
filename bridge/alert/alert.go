package alert

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// State says whether an alert begins or ends.
type State string

// The states.
const (
	Firing   State = "firing"
	Resolved State = "resolved"
)

// Alert is what a rule says of a device, and the JSON value of a record in the alert topic.
type Alert struct {
	Rule     string         `json:"rule"`
	Device   string         `json:"device"`
	State    State          `json:"state"`
	Severity string         `json:"severity"`
	Time     int64          `json:"time"`            // ms: the window's end, or when the absence was noticed or ended
	Start    int64          `json:"start,omitempty"` // ms: the window's start, or the last sign of life
	Figures  map[string]any `json:"figures,omitempty"`
	Message  string         `json:"message"`
}

func (r *Rule) alert(device string, s State, at, start int64, figures map[string]any) Alert {
	a := Alert{Rule: r.Name, Device: device, State: s, Severity: r.Severity, Time: at, Start: start, Figures: figures}
	switch {
	case r.Message != "":
		pairs := []string{"{device}", device, "{rule}", r.Name}
		for name, v := range figures {
			pairs = append(pairs, "{"+name+"}", figure(v))
		}
		a.Message = strings.NewReplacer(pairs...).Replace(r.Message)
	case r.Absent > 0 && s == Firing:
		a.Message = fmt.Sprintf("%s: nothing heard for %v", device, r.Absent)
	case r.Absent > 0:
		a.Message = device + ": heard again"
	case s == Firing:
		a.Message = fmt.Sprintf("%s: %s over %v (avg %s, min %s, max %s, count %s)", device, strings.TrimSpace(r.Field+" "+r.When), r.Window,
			figure(figures["avg"]), figure(figures["min"]), figure(figures["max"]), figure(figures["count"]))
	default:
		a.Message = fmt.Sprintf("%s: no longer %s", device, strings.TrimSpace(r.Field+" "+r.When))
	}
	return a
}

func figure(v any) string {
	if f, ok := v.(float64); ok {
		return strconv.FormatFloat(f, 'g', 6, 64)
	}
	return fmt.Sprint(v)
}

// String is one line for people.
func (a Alert) String() string {
	return fmt.Sprintf("%s %-8s %-8s %s: %s", time.UnixMilli(a.Time).UTC().Format("2006-01-02T15:04:05Z"), a.State, a.Severity, a.Rule, a.Message)
}

// encode is the record value. Figures that JSON cannot hold (an infinite sum) are left out.
func (a Alert) encode() []byte {
	b, err := json.Marshal(a)
	if err != nil {
		a.Figures = nil
		b, _ = json.Marshal(a)
	}
	return b
}
