BEGIN TRANSACTION;
CREATE TABLE asks (
    study TEXT NOT NULL,
    trial INTEGER NOT NULL,
    seen TEXT NOT NULL,
    PRIMARY KEY (study, trial)
) STRICT;
INSERT INTO "asks" VALUES('unet',0,'[]');
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
INSERT INTO "meta" VALUES('schema_version','2');
CREATE TABLE records (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    task TEXT NOT NULL UNIQUE,
    inputs TEXT NOT NULL,
    outputs TEXT NOT NULL,
    circumstances TEXT NOT NULL,
    sitting INTEGER NOT NULL REFERENCES sittings (number),
    digest TEXT NOT NULL UNIQUE
) STRICT;
INSERT INTO "records" VALUES(1,'094c0becb490a9a8d94869e8fc6d4f0ce63ed4def453c1fba5e06ceb0d07a761','{"architecture":{"family":"unet","num_classes":2,"settings":{}},"data":{"content_digest":"d","spec":"s","train":"train","validation":"validation"},"distillation":null,"initial_weights":"","kind":"train","max_deploy_parameters":0,"max_num_macs":0,"pretrained":"","prune_below":[],"recipe":{"batch_size":4,"clip_norm":0.0,"epochs":50,"keep":"best","learning_rate":0.01,"loss":"family","momentum":0.9,"optimizer":"sgd","power":0.9,"precision":"float32","schedule":"polynomial","steps_per_epoch":0,"validate_every":1,"views":{"color":0.2,"crop_height":0,"crop_width":0,"flip":0.5,"scale_max":2.0,"scale_min":0.5},"warmup_steps":0,"weight_decay":0.0005},"seed":1,"teachers":[],"view_seed":0}','{"best_epoch":0,"class_iou":[],"competence":null,"environment":{},"epochs":0,"error_code":"","error_text":"","exchange":null,"history":[],"images_per_s":0.0,"knowledge":"","miou":0.5,"num_macs":0,"num_parameters_deploy":0,"num_parameters_network":0,"num_parameters_total":0,"one_class_miou":0.0,"peak_memory_bytes":0,"predictions":"","seconds":0.0,"status":"completed","trace":"","uncounted_operations":[],"weights":"w"}','{"agent":"agent-1","at":"2026-01-01T00:00:00Z","attempts":1,"label":"a training","teachers":[]}',1,'318ab804722ca8db23179ab20ce4cd9ea89396964eb239c7615f6f83d0f4376f');
CREATE TABLE sittings (number INTEGER PRIMARY KEY AUTOINCREMENT, provenance TEXT NOT NULL) STRICT;
INSERT INTO "sittings" VALUES(1,'{"code":{"commit":"cccccccccccccccccccccccccccccccccccccccc"}}');
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('sittings',1);
INSERT INTO "sqlite_sequence" VALUES('records',1);
COMMIT;
