// lock: the locks of Go's etcd client, for test/tools/108_clients.pl.
//
//	lock ENDPOINT KIND NAME
//
// KIND: mutex (concurrency.Mutex), read, write (recipes.RWMutex), v3lock (the lock
// service).  Prints "held" when it has the lock, unlocks at the end of its input.
package main

import (
	"context"
	"fmt"
	"io/ioutil"
	"os"

	"go.etcd.io/etcd/clientv3"
	"go.etcd.io/etcd/clientv3/concurrency"
	recipes "go.etcd.io/etcd/contrib/recipes"
	"go.etcd.io/etcd/etcdserver/api/v3lock/v3lockpb"
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "lock:", err)
		os.Exit(1)
	}
}

func main() {
	endpoint, kind, name := os.Args[1], os.Args[2], os.Args[3]
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}})
	must(err)
	session, err := concurrency.NewSession(client)
	must(err)
	background := context.Background()
	rw := recipes.NewRWMutex(session, name)
	mutex := concurrency.NewMutex(session, name)
	service := v3lockpb.NewLockClient(client.ActiveConnection())

	// It may wait for ever.
	go func() {
		switch kind {
		case "mutex":
			must(mutex.Lock(background))
		case "read":
			must(rw.RLock())
		case "write":
			must(rw.Lock())
		case "v3lock":
			_, err := service.Lock(background,
				&v3lockpb.LockRequest{Name: []byte(name), Lease: int64(session.Lease())})
			must(err)
		}
		fmt.Println("held")
	}()
	_, err = ioutil.ReadAll(os.Stdin)
	must(err)
	// Ends the lease, and with it the key.
	must(session.Close())
}
