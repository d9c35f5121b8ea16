// A service on net/http, and with arguments a client (see README.md).
package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

type route struct {
	status int
	delay  time.Duration
	urls   []string
}

var (
	service = os.Getenv("SERVICE")
	logFile = openLog()
	client  = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
)

func main() {
	if len(os.Args) > 1 {
		load(os.Args[1], number(os.Args[2]), number(os.Args[3]), os.Args[4])
		return
	}
	routes := parseRoutes(os.Getenv("ROUTES"))
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("x-request-id")
		route, found := routes["/"+strings.SplitN(r.URL.Path, "/", 3)[1]]
		if !found {
			route.status = http.StatusNotFound
		}
		time.Sleep(route.delay)
		status := route.status
		for k, url := range route.urls {
			callID := fmt.Sprintf("%s.%d", id, k+1)
			answer := call(url, callID)
			writeLog("C", callID, answer)
			if code, err := strconv.Atoi(answer); err != nil || code >= 500 {
				status = http.StatusBadGateway
			}
		}
		writeLog("S", id, strconv.Itoa(status))
		w.WriteHeader(status)
		fmt.Fprintf(w, "%s %s\n", service, id)
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
}

func load(url string, count, inFlight int, prefix string) {
	var next atomic.Int64
	var workers sync.WaitGroup
	for range inFlight {
		workers.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if _, err := os.Stat(os.Getenv("STOP")); i >= count || err == nil {
					return
				}
				id := fmt.Sprintf("%s-%d", prefix, i)
				began := time.Now().UnixNano()
				writeLog("C", id, fmt.Sprintf("%s %d", call(url, id), began))
			}
		})
	}
	workers.Wait()
}

func call(url, id string) string {
	request, err := http.NewRequest("GET", url, nil)
	if err != nil {
		log.Fatal(err)
	}
	request.Header.Set("x-request-id", id)
	response, err := client.Do(request)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return "connect"
	} else if err != nil {
		return "-"
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return "-"
	}
	return strconv.Itoa(response.StatusCode)
}

func parseRoutes(text string) map[string]route {
	routes := map[string]route{}
	for _, line := range strings.Split(text, ";") {
		words := strings.Fields(line)
		routes[words[0]] = route{number(words[1]), time.Duration(number(words[2])) * time.Millisecond, words[3:]}
	}
	return routes
}

func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		log.Fatal(err)
	}
	return n
}

func openLog() *os.File {
	file, err := os.OpenFile(os.Getenv("TRUTH_LOG"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		log.Fatal(err)
	}
	return file
}

func writeLog(kind, id, status string) {
	if _, err := fmt.Fprintf(logFile, "%s %s %s %s\n", kind, service, id, status); err != nil {
		log.Fatal(err)
	}
}
