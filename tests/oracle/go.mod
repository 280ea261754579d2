module stepclock/oracle

go 1.23

require github.com/influxdata/line-protocol/v2 v2.2.1
