package e2e

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// postgres is a database of the test's own.
type postgres struct {
	t             *testing.T
	bin           string // directory of its programs
	addr, version string
}

// startPostgres runs one with those settings besides.
func startPostgres(t *testing.T, settings ...string) *postgres {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	need(t, len(found) > 0, "PostgreSQL")
	db := &postgres{t: t, bin: filepath.Dir(found[len(found)-1])}
	db.version = filepath.Base(filepath.Dir(db.bin))
	dir, err := os.MkdirTemp("", "weir-postgres-") // not below the test's, which others may not enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	as := []string{}
	if os.Getuid() == 0 { // it does not run as root
		as = []string{"runuser", "-u", "postgres", "--"}
		run(t, "", "chown", "postgres", dir)
	}
	argv := append(as, filepath.Join(db.bin, "initdb"), "-A", "trust", "-U", "postgres", "-D", filepath.Join(dir, "data"))
	run(t, "", argv[0], argv[1:]...)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	db.addr = free.Addr().String()
	free.Close()
	_, port, _ := net.SplitHostPort(db.addr)
	argv = append(as, filepath.Join(db.bin, "postgres"), "-D", filepath.Join(dir, "data"), "-h", "127.0.0.1", "-p", port, "-k", dir)
	argv = append(argv, settings...)
	server := exec.Command(argv[0], argv[1:]...)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop := append(as, filepath.Join(db.bin, "pg_ctl"), "-D", filepath.Join(dir, "data"), "-m", "immediate", "stop")
		run(t, "", stop[0], stop[1:]...)
		_ = server.Wait()
	})
	for end := time.Now().Add(patience); db.ask("select 1") != "1"; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("PostgreSQL does not start")
		}
	}
	return db
}

// ask returns what a query gives, its columns joined by "|".
func (db *postgres) ask(query string) string {
	host, port, _ := net.SplitHostPort(db.addr)
	out, _, _ := execute("", filepath.Join(db.bin, "psql"), "-h", host, "-p", port, "-U", "postgres", "-Atc", query)
	return strings.TrimSpace(out)
}

// mariadb is a database of the test's own, with a log of its rows' changes.
type mariadb struct {
	t             *testing.T
	socket        string
	port, version string
}

func startMariaDB(t *testing.T) *mariadb {
	t.Helper()
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin"} { // where a user's PATH does not lead
		t.Setenv("PATH", os.Getenv("PATH")+":"+dir)
	}
	program, client := needCommand(t, "mariadbd"), needCommand(t, "mariadb")
	dir, err := os.MkdirTemp("", "weir-mariadb-") // not below the test's: the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	as := []string{}
	if os.Getuid() == 0 {
		as = []string{"--user=root"}
	}
	run(t, "", needCommand(t, "mariadb-install-db"), append(as, "--no-defaults", "--auth-root-authentication-method=normal", "--datadir="+filepath.Join(dir, "data"))...)
	db := &mariadb{t: t, socket: filepath.Join(dir, "socket"), version: strings.TrimSuffix(wordAfter(t, "Distrib", client, "--version"), "-MariaDB,")}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, db.port, _ = net.SplitHostPort(free.Addr().String())
	free.Close()
	server := exec.Command(program, append([]string{"--no-defaults"}, append(as, "--datadir="+filepath.Join(dir, "data"), "--socket="+db.socket, "--port="+db.port,
		"--bind-address=127.0.0.1", "--skip-name-resolve", "--server-id=1", "--log-bin=changes", "--binlog-format=ROW", "--binlog-row-image=FULL")...)...)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
	for end := time.Now().Add(patience); db.ask("select 1") != "1"; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("MariaDB does not start")
		}
	}
	return db
}

// ask returns what statements give, columns separated by tabs.
func (db *mariadb) ask(statements string) string {
	out, _, _ := execute(statements, "mariadb", "--no-defaults", "--socket="+db.socket, "-u", "root", "-N", "-B", "--default-character-set=utf8mb4", "-D", "mysql")
	return strings.TrimSpace(out)
}
