// Command sarama produces N records to a topic, as an idempotent producer and in a transaction, and reads them back in a consumer group, as committed. It prints
// "consumed N". Arguments: address topic count.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"time"

	"github.com/IBM/sarama"
)

func main() {
	addr, topic := os.Args[1], os.Args[2]
	count, err := strconv.Atoi(os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	cfg := sarama.NewConfig()
	cfg.Version = sarama.MaxVersion
	cfg.Producer.RequiredAcks = sarama.WaitForAll
	cfg.Producer.Return.Successes = true
	cfg.Producer.Idempotent = true
	cfg.Net.MaxOpenRequests = 1
	cfg.Producer.Compression = sarama.CompressionZSTD
	cfg.Consumer.Offsets.Initial = sarama.OffsetOldest
	cfg.Consumer.IsolationLevel = sarama.ReadCommitted

	admin, err := sarama.NewClusterAdmin([]string{addr}, cfg)
	check(err)
	check(admin.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: 3, ReplicationFactor: 1}, false))
	check(admin.Close())

	produce(addr, topic, cfg, 0, count/2, func(sarama.SyncProducer, func()) {})
	transactional := *cfg
	transactional.Producer.Transaction.ID = "sarama"
	produce(addr, topic, &transactional, count/2, count, func(p sarama.SyncProducer, send func()) {
		check(p.BeginTxn())
		send()
		check(p.AbortTxn())
		check(p.BeginTxn())
	})

	group, err := sarama.NewConsumerGroup([]string{addr}, "sarama-"+topic, cfg)
	check(err)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	h := &handler{seen: make(chan string)}
	seen := map[string]bool{}
	go func() { check(ignore(group.Consume(ctx, []string{topic}, h))); close(h.seen) }()
	for v := range h.seen {
		if seen[v] {
			log.Fatalf("%s twice", v)
		}
		if seen[v] = true; len(seen) == count {
			cancel()
		}
	}
	check(group.Close())
	fmt.Println("consumed", len(seen))
}

// produce sends values from to to-1, within a transaction if begin has begun one.
func produce(addr, topic string, cfg *sarama.Config, from, to int, begin func(sarama.SyncProducer, func())) {
	p, err := sarama.NewSyncProducer([]string{addr}, cfg)
	check(err)
	send := func() {
		var messages []*sarama.ProducerMessage
		for i := from; i < to; i++ {
			messages = append(messages, &sarama.ProducerMessage{Topic: topic, Key: sarama.StringEncoder(fmt.Sprint(i)), Value: sarama.StringEncoder(fmt.Sprint(i))})
		}
		check(p.SendMessages(messages))
	}
	begin(p, send)
	send()
	if p.IsTransactional() {
		check(p.CommitTxn())
	}
	check(p.Close())
}

type handler struct {
	seen chan string
}

func (h *handler) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (h *handler) Cleanup(sarama.ConsumerGroupSession) error { return nil }
func (h *handler) ConsumeClaim(s sarama.ConsumerGroupSession, c sarama.ConsumerGroupClaim) error {
	for {
		select {
		case m := <-c.Messages():
			if m == nil {
				return nil
			}
			select {
			case h.seen <- string(m.Value):
				s.MarkMessage(m, "")
			case <-s.Context().Done():
				return nil
			}
		case <-s.Context().Done():
			return nil
		}
	}
}

func ignore(err error) error {
	if err == context.Canceled || err == sarama.ErrClosedConsumerGroup {
		return nil
	}
	return err
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
