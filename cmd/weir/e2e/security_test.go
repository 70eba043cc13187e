package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// operatorFile is a users-and-rules file with an admin, whose password is root-secret, and a device that publishes below plants/7.
func operatorFile(t *testing.T) (users, properties string) {
	t.Helper()
	dir := t.TempDir()
	hash := func(password string) string { return strings.TrimSpace(run(t, password+"\n", bins.weir, "passwd")) }
	users, properties = filepath.Join(dir, "users.yaml"), filepath.Join(dir, "operator.properties")
	text := fmt.Sprintf("users:\n  - {name: operator, password: %q, admin: true}\n  - {name: plant-7, password: %q, publish: [plants/7/#]}\n", hash("root-secret"), hash("secret"))
	login := "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\n" +
		"sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required username=\"operator\" password=\"root-secret\";\n"
	for name, text := range map[string]string{users: text, properties: login, filepath.Join(dir, "password"): "root-secret\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return users, properties
}

// scramLogin are librdkafka's settings of a user.
func scramLogin(user, password string) []string {
	return []string{
		"-X", "security.protocol=SASL_PLAINTEXT", "-X", "sasl.mechanism=SCRAM-SHA-256", "-X", "sasl.username=" + user, "-X", "sasl.password=" + password,
	}
}

// What Kafka's scripts set on one node of three binds Kafka's clients and MQTT devices on all of them at once, and still does when all have been restarted.
func TestUsersAndRulesOfACluster(t *testing.T) {
	kcat, pub := needCommand(t, "kcat"), needCommand(t, "mosquitto_pub")
	users, properties := operatorFile(t)
	site := &site{t: t, ring: filepath.Join(t.TempDir(), "keyring")}
	run(t, "", bins.weir, "cluster", "keygen", site.ring)
	for i := range 3 {
		extra := []string{"--expect", "3", "--auth-file", users, "--kafka-sasl"}
		if i > 0 {
			extra = append(extra, "--join", site.members[0].gossip)
		}
		site.make(extra...)
	}
	site.start(site.members...)
	first, second, third := site.members[0], site.members[1], site.members[2]
	s := kafkaTools(t, first.node)
	s.bootstrap += " --command-config " + properties
	passed(t, "Apache Kafka tools", javaVersion(t), "ACLs and SCRAM users on three nodes, verbatim")
	passed(t, "kcat", strings.Fields(run(t, "", kcat, "-V"))[0], "SASL SCRAM, rules")

	s.want("kafka-configs", "$B --alter --add-config SCRAM-SHA-256=[iterations=8192,password=alice-secret] --entity-type users --entity-name alice", `^Completed updating config for user alice`)
	s.want("kafka-configs", "$B --describe --entity-type users", `^SCRAM credential configs for user-principal 'alice' are SCRAM-SHA-256=iterations=8192`)
	s.refused("kafka-configs", "$B --alter --add-config SCRAM-SHA-256=[password=x] --entity-type users --entity-name plant-7", `the user and his password stand in .*users\.yaml`)

	publish := func(m *member, user, password, topic string) error {
		out, err := tryRun(t, "", pub, "-V", "mqttv5", "-h", "127.0.0.1", "-p", m.mqttPort(), "-q", "1", "-i", "dev-"+user, "-u", user, "-P", password, "-t", topic, "-m", "x")
		if err == nil && strings.Contains(strings.ToLower(out), "not auth") {
			err = fmt.Errorf("%s", out)
		}
		return err
	}
	produce := func(m *member, topic string) error {
		_, err := tryRun(t, "x\n", kcat, append(scramLogin("alice", "alice-secret"), "-b", m.kafka, "-P", "-t", topic)...)
		return err
	}
	for _, m := range []*member{second, third} { // before any rule
		if publish(m, "alice", "alice-secret", "notes/1") == nil || produce(m, "telemetry") == nil {
			t.Errorf("what no rule allows is done")
		}
	}
	s.want("kafka-acls", "$B --add --allow-principal User:alice --producer --consumer --topic telemetry --group dash", `operation=WRITE, permissionType=ALLOW`)
	s.want("kafka-acls", "$B --list --principal User:plant-7", `name=mqtt:plants/7/#, patternType=LITERAL`)
	s.refused("kafka-acls", "$B --remove --force --topic mqtt:plants/7/#", `PolicyViolationException: this rule stands in .*users\.yaml \(auth\.file\) of this node: change it there`)
	s.refused("kafka-acls", "$B --add --allow-principal User:alice --operation Read --topic mqtt:plants/ --resource-pattern-type prefixed", `make the rule literal`)

	allowed := func(when string) {
		t.Helper()
		for name, err := range map[string]error{
			"mqtt on the second": publish(second, "alice", "alice-secret", "notes/1"), "mqtt on the third": publish(third, "alice", "alice-secret", "notes/1"),
			"kafka on the second": produce(second, "telemetry"), "kafka on the third": produce(third, "telemetry"),
			"a device of the file": publish(third, "plant-7", "secret", "plants/7/x"),
		} {
			if err != nil {
				t.Errorf("%s, %s: %v", when, name, err)
			}
		}
		if publish(second, "alice", "wrong", "notes/1") == nil || produce(third, "orders") == nil || publish(third, "plant-7", "secret", "plants/8/x") == nil {
			t.Errorf("%s: what nothing allows is done", when)
		}
	}
	allowed("with rules")
	got := run(t, "", kcat, append(scramLogin("alice", "alice-secret"), "-b", second.kafka, "-C", "-t", "telemetry", "-e", "-q", "-f", "%s\n")...)
	if n := strings.Count(got, "x\n"); n != 5 {
		t.Errorf("alice reads %d records", n)
	}

	s.want("kafka-acls", "$B --add --deny-principal User:alice --operation Write --topic telemetry", `permissionType=DENY`)
	denied := func(when string) {
		t.Helper()
		for _, m := range site.members {
			if publish(m, "alice", "alice-secret", "notes/1") == nil || produce(m, "telemetry") == nil {
				t.Errorf("%s: what a rule denies is done", when)
			}
		}
	}
	denied("denied")
	for _, m := range site.members {
		m.stop()
	}
	site.start(site.members...)
	denied("after a restart")
	s.want("kafka-acls", "$B --remove --force --deny-principal User:alice --operation Write --topic telemetry")
	allowed("the denial is gone")

	as := []string{"--user", "operator", "--password-file", filepath.Join(filepath.Dir(users), "password")}
	if out := first.weir(append(as, "topics", "list")...); !strings.Contains(out, "telemetry") {
		t.Errorf("weir topics list: %s", out)
	}
	first.weir(append(as, "cluster", "status")...)
	if out := first.refused("cluster", "status"); !strings.Contains(out, "asks who you are") {
		t.Errorf("weir cluster status without a user: %s", out)
	}
	for _, m := range site.members {
		if strings.Contains(m.stderr.String(), "alice-secret") || strings.Contains(m.stderr.String(), "root-secret") {
			t.Error("a password is in the log")
		}
	}
}
