package mqtt

import (
	"testing"
	"time"

	"github.com/weir-io/weir/log"
)

// A record that came otherwise is retained as it would be seen by who was subscribed, and removed by one without a value.
func TestRetainRecord(t *testing.T) {
	r := startRig(t, nil)
	rec := &log.Record{Timestamp: time.Now().UnixMilli(), Value: []byte("firmware 7")}
	for _, h := range [][2]string{
		{"mqtt.topic", "devices/d1/manifest"}, {"weir.via", "edge/central"}, {"mqtt.retain", "1"}, {"content-type", "text/plain"}, {"mqtt.response-topic", "answers"}, {"mqtt.correlation-data", "c"},
		{"mqtt.payload-format", "1"}, {"mqtt.qos", "1"}, {"mqtt.topic", "a user's"}, {"binary", "\xff"},
	} {
		rec.Headers = append(rec.Headers, log.Header{Key: []byte(h[0]), Value: []byte(h[1])})
	}
	retain := func() {
		done := make(chan error, 1)
		r.srv.RetainRecord(rec, func(err error) { done <- err })
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	retain()
	late, _ := r.v5("late", nil)
	late.subscribe("devices/#", 1)
	m := late.message()
	p := m.Properties
	if m.Topic != "devices/d1/manifest" || string(m.Payload) != "firmware 7" || !m.Retain || p.ContentType != "text/plain" || p.ResponseTopic != "answers" || string(p.CorrelationData) != "c" ||
		p.PayloadFormat == nil || *p.PayloadFormat != 1 || len(p.User) != 2 || p.User[0].Key != "weir.via" || p.User[1].Value != "a user's" {
		t.Errorf("retained: %v", m)
	}
	rec.Value = nil
	retain()
	later, _ := r.v5("later", nil)
	later.subscribe("devices/#", 1)
	later.quiet()
}
