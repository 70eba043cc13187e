// Command kafkago produces N records to a topic with segmentio/kafka-go and reads them back in a consumer group. It prints "consumed N". Arguments: address topic count.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"time"

	"github.com/segmentio/kafka-go"
)

func main() {
	addr, topic := os.Args[1], os.Args[2]
	count, err := strconv.Atoi(os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client := &kafka.Client{Addr: kafka.TCP(addr)}
	made, err := client.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{{Topic: topic, NumPartitions: 3, ReplicationFactor: 1}}})
	check(err)
	check(made.Errors[topic])

	w := &kafka.Writer{Addr: kafka.TCP(addr), Topic: topic, RequiredAcks: kafka.RequireAll, Compression: kafka.Lz4, Balancer: &kafka.Murmur2Balancer{}, BatchTimeout: 10 * time.Millisecond}
	var messages []kafka.Message
	for i := range count {
		messages = append(messages, kafka.Message{Key: fmt.Append(nil, i), Value: fmt.Append(nil, i)})
	}
	check(w.WriteMessages(ctx, messages...))
	check(w.Close())

	r := kafka.NewReader(kafka.ReaderConfig{Brokers: []string{addr}, GroupID: "kafkago-" + topic, Topic: topic, StartOffset: kafka.FirstOffset, MaxWait: 200 * time.Millisecond})
	seen := map[string]bool{}
	for len(seen) < count {
		m, err := r.ReadMessage(ctx)
		check(err)
		if seen[string(m.Value)] {
			log.Fatalf("%s twice", m.Value)
		}
		seen[string(m.Value)] = true
	}
	check(r.Close())
	fmt.Println("consumed", len(seen))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
