#!/usr/bin/env php
<?php
// Usage: client.php PORT FUNCTION bg|fg <JOBS
// GearmanClient: a line is UNIQUE TAB PAYLOAD, the unique may be empty; fg prints how each job ends.
[, $port, $function, $mode] = $argv;
$client = new GearmanClient();
$client->addServer('127.0.0.1', (int) $port);
$client->setStatusCallback(function ($task) {
    echo "status {$task->taskNumerator()} {$task->taskDenominator()}\n";
});
$client->setCompleteCallback(function ($task) {
    echo "complete {$task->data()}\n";
});
$client->setFailCallback(function () {
    echo "fail\n";
});
while (($line = fgets(STDIN)) !== false) {
    [$unique, $payload] = explode("\t", rtrim($line, "\n"), 2);
    $unique = $unique === '' ? null : $unique;
    if ($mode === 'bg') {
        $client->doBackground($function, $payload, $unique);
        if ($client->returnCode() !== GEARMAN_SUCCESS) {
            exit('not accepted: ' . $client->error());
        }
        continue;
    }
    $client->addTask($function, $payload, null, $unique);
    $client->runTasks();
}
