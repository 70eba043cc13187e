package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// The consumer group of deploy/centre: the readings of two sites come to a centre, and into PostgreSQL once each, though the group's member and a gateway are killed meanwhile.
func TestAnalyticsAtTheCentre(t *testing.T) {
	inClients(t)
	python := filepath.Join(cacheDir(), "venv-apps", "bin", "python")
	_, err := os.Stat(python)
	need(t, err == nil, "psycopg (PyPI)")
	db := startPostgres(t)
	host, port, _ := net.SplitHostPort(db.addr)
	run(t, "", filepath.Join(db.bin, "psql"), "-q", "-h", host, "-p", port, "-U", "postgres", "-f", "../../../deploy/centre/schema.sql")
	centre := startNode(t)
	sites := map[string]*node{}
	for _, site := range []string{"site-a", "site-b"} {
		file := filepath.Join(t.TempDir(), "site.yaml")
		text := "node: {site: " + site + "}\nuplinks: [{name: centre, to: \"kafka://" + centre.kafka + "\", topics: [telemetry], rename: \"{site}.{topic}\"}]\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		sites[site] = startNode(t, "--config", file)
	}
	said := &lockedBuffer{}
	analytics := func() *exec.Cmd {
		cmd := exec.Command(python, "../../../deploy/centre/analytics.py", "--bootstrap", centre.kafka, "--postgres", fmt.Sprintf("host=%s port=%s user=postgres", host, port))
		cmd.Stdout, cmd.Stderr = said, said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		return cmd
	}
	member := analytics()
	fleets := map[string]*fleet{}
	for site, n := range sites {
		fleets[site] = startFleet(t, n, "20/s", 15*time.Second)
	}
	for range 2 {
		before := db.ask("select count(*) from readings")
		for end := time.Now().Add(patience); db.ask("select count(*) from readings") == before; time.Sleep(100 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("nothing new in PostgreSQL beside %s readings\n%s", before, said)
			}
		}
		_ = member.Process.Kill()
		_ = member.Wait()
		member = analytics()
	}
	sites["site-a"].kill()
	sites["site-a"].start()
	for site, f := range fleets {
		total := 0
		for _, n := range f.acked() {
			total += n
		}
		query := "select count(distinct (device, seq)), count(*) from readings where site = '" + site + "'"
		for end := time.Now().Add(2 * patience); ; time.Sleep(200 * time.Millisecond) {
			rows := len(kcatRead(t, centre, site+".telemetry", "%o")) // a device sends again what its gateway could not acknowledge
			if db.ask(query) == fmt.Sprintf("%d|%d", total, rows) {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%s: PostgreSQL has %s (readings, rows), %d are acknowledged, %d records at the centre\n%s", site, db.ask(query), total, rows, said)
			}
		}
		if missing := db.ask("select count(*) from missing where site = '" + site + "'"); missing != "0" {
			t.Errorf("%s: %s devices with missing readings", site, missing)
		}
	}
	passed(t, "analytics.py (confluent-kafka, psycopg) into PostgreSQL", db.version, "two sites over uplinks, offsets in the database; member and gateway killed meanwhile; each reading once")
}
