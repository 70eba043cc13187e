package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-io/weir/mqtt"
	"github.com/weir-io/weir/mqtt/schema"
)

// Routes with schemas are put in force by a reload, and those that no route names are forgotten. The registry itself is the one that the node was started with.
func TestReloadOfRoutesWithSchemas(t *testing.T) {
	var asked atomic.Value
	double := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.URL.Path)
		_, _ = w.Write([]byte(`{"subject": "s", "id": 1, "version": 1, "schemaType": "JSON", "schema": "{\"type\": \"integer\"}"}`))
	}))
	defer double.Close()
	with := func(routes ...mqtt.Route) func() (Config, error) {
		return func() (Config, error) {
			cfg := Defaults()
			cfg.Schemas.Registry, cfg.Routes = double.URL, routes
			return cfg, nil
		}
	}
	plain, held := mqtt.Route{Match: "#", Topic: "t"}, mqtt.Route{Match: "#", Topic: "t", Schema: &schema.Rule{Subject: "s"}}

	n := testNode(t)
	n.reloadConfig = with(held)
	if err := n.reload(); err == nil || !strings.Contains(err.Error(), "routes[0].schema: the node was started without schemas.registry, which waits for a restart; nothing changed") {
		t.Error(err)
	}

	n = testNodeWith(t, func(c *Config) { c.Schemas.Registry = double.URL })
	n.reloadConfig = with(held)
	if err := n.reload(); err != nil {
		t.Fatal(err)
	}
	match := func(payload string) error {
		_, err := n.routing.Load().router.Match([]byte("a"), &mqtt.RouteScratch{}, &mqtt.PublishInfo{Payload: []byte(payload)})
		return err
	}
	for end := time.Now().Add(20 * time.Second); match("1") != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(match("1"))
		}
	}
	if err := match(`"x"`); err == nil || asked.Load() != "/subjects/s/versions/latest" {
		t.Errorf("%v, asked for %v", err, asked.Load())
	}
	if s := n.schemas.Stats(); s.Subjects != 1 || s.Unknown != 0 || s.Refused != 1 {
		t.Errorf("%+v", s)
	}
	n.reloadConfig = with(plain)
	if err := n.reload(); err != nil || n.schemas.Stats().Subjects != 0 || match(`"x"`) != nil {
		t.Errorf("%v, %+v", err, n.schemas.Stats())
	}
}
