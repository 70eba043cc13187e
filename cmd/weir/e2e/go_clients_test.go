package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Go's other clients, which are a module of their own: nothing of weir's needs them.
func TestGoClients(t *testing.T) {
	inClients(t)
	mod, err := os.ReadFile("clients/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	n := startNode(t)
	for name, c := range map[string]struct{ module, check string }{
		"sarama":  {"github.com/IBM/sarama", "idempotent and transactional producer, consumer group reading committed records"},
		"kafkago": {"github.com/segmentio/kafka-go", "producer, consumer group"},
	} {
		t.Run(name, func(t *testing.T) {
			bin := filepath.Join(t.TempDir(), name)
			build := exec.Command("go", "build", "-o", bin, "./"+name)
			build.Dir = "clients"
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			version := regexp.MustCompile(regexp.QuoteMeta(c.module) + ` v(\S+)`).FindSubmatch(mod)
			passed(t, strings.TrimPrefix(c.module, "github.com/"), string(version[1]), c.check)
			if out := run(t, "", bin, n.kafka, "by-"+name, "300"); !strings.Contains(out, "consumed 300") {
				t.Errorf("the client said:\n%s", out)
			}
		})
	}
}
