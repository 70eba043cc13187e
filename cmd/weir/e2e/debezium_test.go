package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Changes of a table of PostgreSQL go into a topic, each exactly once, while the worker and the node are killed: who follows them comes to the same table.
func TestDebeziumFollowsPostgreSQL(t *testing.T) {
	inClients(t)
	n := startNode(t)
	db := startPostgres(t, "-c", "wal_level=logical")
	w := newWorker(t, n.kafka, "org.apache.kafka.connect.json.JsonConverter")
	passed(t, "Debezium source for PostgreSQL", jarVersion(t, w.jars, "debezium-connector-postgres"),
		"changes of a table of PostgreSQL "+db.version+" (pgoutput), exactly once; worker and node killed meanwhile")
	db.ask("create table setpoints (device int primary key, value int not null); insert into setpoints select i, i from generate_series(1, 50) i") // before it looks: its snapshot
	w.start()
	host, port, _ := net.SplitHostPort(db.addr)
	w.connect("from-postgres", fmt.Sprintf(`{"connector.class": "io.debezium.connector.postgresql.PostgresConnector", "tasks.max": "1", "plugin.name": "pgoutput",
		"database.hostname": %q, "database.port": %q, "database.user": "postgres", "database.password": "", "database.dbname": "postgres",
		"topic.prefix": "plant", "table.include.list": "public.setpoints", "exactly.once.support": "required",
		"key.converter": "org.apache.kafka.connect.json.JsonConverter", "key.converter.schemas.enable": "false",
		"value.converter": "org.apache.kafka.connect.json.JsonConverter", "value.converter.schemas.enable": "false"}`, host, port))
	c := followChanges(t, n, w, "plant.public.setpoints")
	c.until("the snapshot", func() bool { return len(c.table) == 50 })
	changeSetpoints(db.ask, "setpoints", w, n)
	want := map[int]int{}
	for line := range strings.Lines(db.ask("select device, value from setpoints")) {
		var device, value int
		if _, err := fmt.Sscanf(line, "%d|%d", &device, &value); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		want[device] = value
	}
	if len(want) < 100 {
		t.Fatalf("the table has %d rows", len(want))
	}
	c.until("the table as it is", func() bool { return maps.Equal(c.table, want) })
}

// changeSetpoints adds, changes and removes rows of a table, and kills the worker and the node meanwhile.
func changeSetpoints(ask func(string) string, table string, w *worker, n *node) {
	for i := range 120 {
		ask(fmt.Sprintf("insert into %[1]s values (%[2]d, 0); update %[1]s set value = value + 1 where device %% 10 = %[3]d; delete from %[1]s where device = %[4]d and %[2]d %% 3 = 0",
			table, 1000+i, i%10, 1000+i-20))
		switch i {
		case 40:
			w.kill()
			w.start()
		case 80:
			n.kill()
			n.start()
		}
	}
}

// changes follows the topic of a table's changes.
type changes struct {
	t      *testing.T
	w      *worker
	reader *kgo.Client
	table  map[int]int     // what they amount to
	seen   map[string]bool // each has a place in the database's log
}

func followChanges(t *testing.T, n *node, w *worker, topic string) *changes {
	t.Helper()
	reader, err := kgo.NewClient(kgo.SeedBrokers(n.kafka), kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reader.Close)
	return &changes{t: t, w: w, reader: reader, table: map[int]int{}, seen: map[string]bool{}}
}

func (c *changes) until(what string, is func() bool) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*patience)
	defer cancel()
	for !is() {
		fetches := c.reader.PollFetches(ctx)
		if ctx.Err() != nil {
			c.t.Fatalf("waited for %s in vain; %d changes make %v\nthe worker said:\n%s", what, len(c.seen), c.table, c.w.output)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if r.Value == nil { // follows a deletion, for compaction
				return
			}
			type row struct{ Device, Value int }
			var change struct {
				Op            string
				Before, After *row
				Source        struct {
					LSN  int64
					TxID int64
				}
			}
			if err := json.Unmarshal(r.Value, &change); err != nil {
				c.t.Fatalf("%s: %v", r.Value, err)
			}
			place := fmt.Sprint(change.Source.LSN, " ", change.Source.TxID, " ", string(r.Key), change.Op)
			if c.seen[place] {
				c.t.Errorf("twice: %s", r.Value)
			}
			c.seen[place] = true
			switch {
			case change.After != nil:
				c.table[change.After.Device] = change.After.Value
			case change.Op == "d":
				delete(c.table, change.Before.Device)
			default:
				c.t.Fatalf("%s", r.Value)
			}
		})
	}
}

// The changes of a table of MariaDB go through a topic into another table of it, inserts, updates and deletions, while the worker and the node are killed. The connector
// keeps what the table looked like in a topic of its own.
func TestDebeziumCopiesMariaDB(t *testing.T) {
	inClients(t)
	n := startNode(t)
	db := startMariaDB(t)
	w := newWorker(t, n.kafka, "org.apache.kafka.connect.json.JsonConverter")
	passed(t, "Debezium source for MariaDB and JDBC sink", jarVersion(t, w.jars, "debezium-connector-mariadb"),
		"changes of a table of MariaDB "+db.version+" into another; worker and node killed meanwhile")
	db.ask(`create database plant; create table plant.setpoints (device int primary key, value int not null);
		create user 'weir'@'127.0.0.1' identified by 'weir'; grant all on *.* to 'weir'@'127.0.0.1'; insert into plant.setpoints select seq, seq from seq_1_to_50`)
	w.start()
	const keys = `"key.converter": "org.apache.kafka.connect.json.JsonConverter"`
	w.connect("from-mariadb", fmt.Sprintf(`{"connector.class": "io.debezium.connector.mariadb.MariaDbConnector", "tasks.max": "1", %s,
		"database.hostname": "127.0.0.1", "database.port": %q, "database.user": "weir", "database.password": "weir", "database.server.id": "5401",
		"topic.prefix": "shop", "database.include.list": "plant", "table.include.list": "plant.setpoints",
		"schema.history.internal.kafka.bootstrap.servers": %q, "schema.history.internal.kafka.topic": "schema-history"}`, keys, db.port, n.kafka))
	w.connect("to-mariadb", fmt.Sprintf(`{"connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector", "tasks.max": "1", %s, "topics": "shop.plant.setpoints",
		"connection.url": "jdbc:mariadb://127.0.0.1:%s/plant", "connection.username": "weir", "connection.password": "weir", "collection.name.format": "copied",
		"insert.mode": "upsert", "delete.enabled": "true", "primary.key.mode": "record_key", "schema.evolution": "basic"}`, keys, db.port))
	w.until("the snapshot", func() bool { return db.ask("select count(*) from plant.copied") == "50" })
	changeSetpoints(db.ask, "plant.setpoints", w, n)
	const rows = "select device, value from plant.%s order by device"
	want := db.ask(fmt.Sprintf(rows, "setpoints"))
	if strings.Count(want, "\n") < 100 {
		t.Fatalf("the table has: %s", want)
	}
	w.until("the same rows in both tables", func() bool { return db.ask(fmt.Sprintf(rows, "copied")) == want })
}
