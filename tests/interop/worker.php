#!/usr/bin/env php
<?php
// Usage: worker.php PORT FUNCTION LOG
// GearmanWorker: a job is {"n": NUMBER, "how": HOW}; what is not JSON fails.
// LOG gets a line per job: its payload in base64, and how.
[, $port, $function, $log] = $argv;
$worker = new GearmanWorker();
$worker->addServer('127.0.0.1', (int) $port);
$worker->addFunction($function, function (GearmanJob $job) use ($log) {
    $given = json_decode($job->workload(), true);
    $how = is_array($given) ? $given['how'] ?? 'ok' : 'undecodable';
    file_put_contents($log, base64_encode($job->workload()) . " $how\n", FILE_APPEND);
    if ($how === 'raise') {
        $job->sendException('no luck');
        return;
    }
    if ($how === 'fail' || $how === 'undecodable') {
        $job->sendFail();
        return;
    }
    if ($how === 'progress') {
        $job->sendStatus(1, 2);
    }
    return "done {$given['n']}";
});
while (true) {
    @$worker->work();
}
